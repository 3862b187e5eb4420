//! `flotilla topology`: all of it at a glance.

use flotilla_proto::wire::manager as wire;
use serde::Serialize;

use super::output::or_dash;
use super::peer::DaemonView;
use super::region::RegionView;
use super::registry::{RegistryView, views};
use super::{CliError, ManagerArgs, request};

/// The whole topology
#[derive(Debug, Clone, clap::Subcommand)]
pub enum TopologyCommand {
    /// Show regions with their daemons, and registries with their endpoints, as a tree
    #[command(after_help = "Example:\n  flotilla topology show")]
    Show,
}

impl TopologyCommand {
    /// Does it, and returns what to print.
    ///
    /// # Errors
    ///
    /// If the manager cannot be reached, or refuses.
    pub async fn execute(self, args: &ManagerArgs) -> Result<String, CliError> {
        let Self::Show = self;
        let mut manager = args.connect().await?;
        let refused = |status| args.refused(&status);
        let regions = manager.list_regions(request(wire::Empty {})).await.map_err(refused)?;
        let daemons = manager.list_daemons(request(wire::Empty {})).await.map_err(refused)?;
        let registries = manager.list_registries(request(wire::Empty {})).await.map_err(refused)?;
        let daemons: Vec<_> = daemons.into_inner().daemons.into_iter().map(DaemonView::from).collect();
        let answer = TopologyView::new(
            regions.into_inner().regions.into_iter().map(RegionView::from),
            daemons,
            views(&registries.into_inner())?,
        );
        Ok(args.output.render(&answer, TopologyView::tree)?)
    }
}

#[derive(Debug, Serialize)]
struct TopologyView {
    regions: Vec<RegionTree>,
    registries: Vec<RegistryView>,
}

#[derive(Debug, Serialize)]
struct RegionTree {
    #[serde(flatten)]
    region: RegionView,
    daemons: Vec<DaemonView>,
}

impl TopologyView {
    fn new(
        regions: impl Iterator<Item = RegionView>,
        mut daemons: Vec<DaemonView>,
        registries: Vec<RegistryView>,
    ) -> Self {
        let regions = regions.map(|region| {
            let own = daemons.extract_if(.., |daemon| daemon.region == region.name).collect();
            RegionTree { region, daemons: own }
        });
        Self { regions: regions.collect(), registries }
    }

    fn tree(&self) -> String {
        let mut lines = vec!["regions".to_owned()];
        for (region_branch, tree) in branches(&self.regions) {
            let RegionView { name, description } = &tree.region;
            lines.push(format!("{}{name}  {description}", region_branch.twig()).trim_end().to_owned());
            for (branch, daemon) in branches(&tree.daemons) {
                let state = if daemon.connected { "connected" } else { "away" };
                let address = or_dash(daemon.address.as_deref());
                let DaemonView { role, id, .. } = daemon;
                lines.push(format!(
                    "{}{}{role} {id}  {address}  {state}",
                    region_branch.trunk(),
                    branch.twig()
                ));
            }
        }
        lines.push("registries".to_owned());
        for (registry_branch, registry) in branches(&self.registries) {
            let RegistryView { host, .. } = registry;
            lines.push(format!("{}{host}{}", registry_branch.twig(), behind("", &registry.options())));
            for (branch, endpoint) in branches(&registry.endpoints) {
                let address = behind("at ", endpoint.address.as_deref().unwrap_or_default());
                let (trunk, twig) = (registry_branch.trunk(), branch.twig());
                let options = behind("", &endpoint.options());
                let state = behind("", &endpoint.state());
                lines.push(format!("{trunk}{twig}{}{address}{options}{state}", endpoint.url));
            }
        }
        lines.join("\n")
    }
}

/// What comes behind an item's name, if there is something to say.
fn behind(word: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("  {word}{text}") }
}

/// Where an item stands among its siblings.
#[derive(Clone, Copy)]
enum Branch {
    Middle,
    Last,
}

impl Branch {
    /// Before the item itself.
    fn twig(self) -> &'static str {
        match self {
            Self::Middle => "├─ ",
            Self::Last => "└─ ",
        }
    }

    /// Before what hangs below the item.
    fn trunk(self) -> &'static str {
        match self {
            Self::Middle => "│  ",
            Self::Last => "   ",
        }
    }
}

fn branches<T>(items: &[T]) -> impl Iterator<Item = (Branch, &T)> {
    let last = items.len().saturating_sub(1);
    items
        .iter()
        .enumerate()
        .map(move |(index, item)| (if index == last { Branch::Last } else { Branch::Middle }, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_hangs_daemons_below_their_region() {
        let region = |name: &str| RegionView { name: name.into(), description: String::new() };
        let daemon = |id: &str, region: &str| DaemonView {
            id: id.into(),
            region: region.into(),
            role: "peer".into(),
            address: Some("10.0.0.1:4006".into()),
            version: None,
            connected: true,
            enrolled_at: None,
            seen_at: None,
        };
        let daemons = vec![daemon("a", "eu"), daemon("b", "us"), daemon("c", "eu")];
        let view = TopologyView::new([region("eu"), region("us")].into_iter(), daemons, Vec::new());
        let expected = "regions\n\
            ├─ eu\n\
            │  ├─ peer a  10.0.0.1:4006  connected\n\
            │  └─ peer c  10.0.0.1:4006  connected\n\
            └─ us\n   \
               └─ peer b  10.0.0.1:4006  connected\n\
            registries";
        assert_eq!(view.tree(), expected);
    }
}
