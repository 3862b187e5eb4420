//! `flotilla region`.

use flotilla_proto::RegionName;
use flotilla_proto::wire::manager as wire;
use serde::Serialize;

use super::output::{or_dash, table};
use super::{CliError, ManagerArgs, request};

/// Regions: one scheduler set, one set of seeds, cheap traffic inside
#[derive(Debug, Clone, clap::Subcommand)]
pub enum RegionCommand {
    /// List the regions
    #[command(after_help = "Example:\n  flotilla region list --output json")]
    List,
    /// Add a region
    #[command(after_help = "Example:\n  flotilla region add eu-west --description \"Dublin and London\"")]
    Add {
        /// Its name: a DNS label
        name: RegionName,
        /// What people should know of it
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Remove a region that has no daemons; its join tokens go with it
    #[command(after_help = "Example:\n  flotilla region remove eu-west")]
    Remove {
        /// Its name
        name: RegionName,
    },
}

impl RegionCommand {
    /// Does it, and returns what to print.
    ///
    /// # Errors
    ///
    /// If the manager cannot be reached, or refuses.
    pub async fn execute(self, args: &ManagerArgs) -> Result<String, CliError> {
        let mut manager = args.connect().await?;
        match self {
            Self::List => {
                let reply = manager.list_regions(request(wire::Empty {})).await;
                let regions = reply.map_err(|status| args.refused(&status))?.into_inner().regions;
                let regions: Vec<_> = regions.into_iter().map(RegionView::from).collect();
                Ok(args.output.render(&regions, |regions| {
                    table(["name", "description"], regions.iter().map(RegionView::row))
                })?)
            }
            Self::Add { name, description } => {
                let region = wire::Region { name: name.to_string(), description };
                manager.add_region(request(region)).await.map_err(|status| args.refused(&status))?;
                Ok(args.output.done(format!("region {name} added"))?)
            }
            Self::Remove { name } => {
                let named = wire::Name { name: name.to_string() };
                manager.remove_region(request(named)).await.map_err(|status| args.refused(&status))?;
                Ok(args.output.done(format!("region {name} removed"))?)
            }
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct RegionView {
    pub(super) name: String,
    pub(super) description: String,
}

impl RegionView {
    fn row(&self) -> [String; 2] {
        [self.name.clone(), or_dash(Some(&self.description))]
    }
}

impl From<wire::Region> for RegionView {
    fn from(region: wire::Region) -> Self {
        Self { name: region.name, description: region.description }
    }
}
