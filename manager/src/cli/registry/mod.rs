//! `flotilla registry`.

mod endpoint;
mod keys;
mod options;
mod probe;
mod view;

use flotilla_daemon::settings::Upstream;
use flotilla_proto::RegistryHost;
use flotilla_proto::wire::manager as wire;

use self::view::HealthView;
use super::output::table;
use super::{CliError, ManagerArgs, request};

pub use endpoint::{EndpointArgs, EndpointSpec, ParseEndpointError};
pub use keys::{Key, KeyError};
pub use options::RegistryOptions;
pub(super) use view::RegistryView;

/// Registries whose images the fleet carries
#[derive(Debug, Clone, clap::Subcommand)]
pub enum RegistryCommand {
    /// List the registries and their endpoints
    #[command(after_help = "Example:\n  flotilla registry list")]
    List,
    /// Add a registry, or replace all that was said of one
    ///
    /// What is not said is as by default, whatever it was before: the whole registry is replaced.
    #[command(after_help = "Examples:\n  \
        flotilla registry set harbor.example.com --url https://harbor.example.com\n  \
        flotilla registry set harbor.example.com --ca ca.pem \\\n      \
        --url https://harbor-a.internal --url https://harbor-b.internal\n  \
        flotilla registry set harbor.example.com \\\n      \
        --endpoint https://harbor-a.internal,weight=2,ca=ca.pem \\\n      \
        --endpoint https://harbor-b.internal,standby,ca=ca.pem\n  \
        flotilla registry set harbor.example.com --endpoint \\\n      \
        https://harbor.internal,proxy=http://10.0.0.9:3128,limit=50MB@08:00-18:00\n  \
        flotilla registry set harbor.example.com \\\n      \
        --url https://harbor.example.com --offline granted --offline-for 8h\n  \
        flotilla registry set cache.example.com \\\n      \
        --url https://cache.example.com --proxy-cache --count-pulls false")]
    Set {
        /// The host that image names carry
        host: RegistryHost,
        /// What serves it
        #[command(flatten)]
        endpoints: EndpointArgs,
        /// What it wants kept
        #[command(flatten)]
        options: RegistryOptions,
    },
    /// Remove a registry; what is held of it stays until evicted
    #[command(after_help = "Example:\n  flotilla registry remove harbor.example.com")]
    Remove {
        /// The host that image names carry
        host: RegistryHost,
    },
}

impl RegistryCommand {
    /// Does it, and returns what to print.
    ///
    /// # Errors
    ///
    /// If the options do not fit, a CA file cannot be read, or the manager cannot be reached
    /// or refuses.
    pub async fn execute(self, args: &ManagerArgs) -> Result<String, CliError> {
        match self {
            Self::List => list(args).await,
            Self::Set { host, endpoints, options } => {
                let upstream = Upstream::new(host, endpoints.load()?)?;
                set(args, &options.apply(upstream)?).await
            }
            Self::Remove { host } => {
                let named = wire::Name { name: host.to_string() };
                let reply = args.connect().await?.remove_registry(request(named)).await;
                reply.map_err(|status| args.refused(&status))?;
                Ok(args.output.done(format!("registry {host} removed"))?)
            }
        }
    }
}

async fn list(args: &ManagerArgs) -> Result<String, CliError> {
    let reply = args.connect().await?.list_registries(request(wire::Empty {})).await;
    let registries = views(&reply.map_err(|status| args.refused(&status))?.into_inner())?;
    Ok(args.output.render(&registries, |registries| {
        table(RegistryView::HEADINGS, registries.iter().flat_map(RegistryView::rows))
    })?)
}

/// Registries as the manager gives them, to be shown.
pub(super) fn views(registries: &wire::Registries) -> Result<Vec<RegistryView>, CliError> {
    let upstreams = registries.registries.iter().map(Upstream::from_wire);
    let views = upstreams.map(|upstream| upstream.map(RegistryView::from)).collect::<Result<Vec<_>, _>>();
    let mut views = views.map_err(|source| CliError::Answer { source })?;
    for view in &mut views {
        for endpoint in &mut view.endpoints {
            let own = registries.health.iter();
            let own = own.filter(|health| health.host == view.host && health.url == endpoint.url);
            endpoint.health = own.map(HealthView::from).collect();
        }
    }
    Ok(views)
}

async fn set(args: &ManagerArgs, upstream: &Upstream) -> Result<String, CliError> {
    let mut manager = args.connect().await?;
    let registry = upstream.to_wire();
    let refused = |status| args.refused(&status);
    let before = manager.list_registries(request(wire::Empty {})).await.map_err(refused)?.into_inner();
    let is_same = before.registries.contains(&registry);
    manager.set_registry(request(registry)).await.map_err(refused)?;
    let found = probe::endpoints(args, manager, &upstream.host, is_same).await?;
    Ok(args.output.done(format!("registry {} set{found}", upstream.host))?)
}
