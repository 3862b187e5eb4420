//! `flotilla registry`.

use std::net::SocketAddr;
use std::path::PathBuf;

use flotilla_daemon::settings::EndpointUrl;
use flotilla_proto::RegistryHost;
use flotilla_proto::wire::manager as wire;
use serde::Serialize;

use super::output::{or_dash, table};
use super::{CliError, ManagerArgs, request};

/// Registries whose images the fleet carries
#[derive(Debug, Clone, clap::Subcommand)]
pub enum RegistryCommand {
    /// List the registries and their endpoints
    #[command(after_help = "Example:\n  flotilla registry list")]
    List,
    /// Add a registry, or replace the endpoints of one
    #[command(after_help = "Examples:\n  \
        flotilla registry set harbor.example.com --url https://harbor.example.com\n  \
        flotilla registry set harbor.example.com --url https://harbor-a.internal --url https://harbor-b.internal --ca ca.pem")]
    Set {
        /// The host that image names carry
        host: RegistryHost,
        /// An endpoint that serves it, as in https://host:port; several in order of preference
        #[arg(long = "url", value_name = "URL", required = true)]
        urls: Vec<EndpointUrl>,
        /// CA certificates in PEM that its endpoints' certificates may come from, beside
        /// the system's
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Dial this address instead of what the endpoint's name resolves to
        #[arg(long, value_name = "IP:PORT")]
        address: Option<SocketAddr>,
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
    /// If the CA file cannot be read, or the manager cannot be reached or refuses.
    pub async fn execute(self, args: &ManagerArgs) -> Result<String, CliError> {
        match self {
            Self::List => list(args).await,
            Self::Set { host, urls, ca, address } => {
                let ca_pem = match ca {
                    Some(file) => {
                        std::fs::read_to_string(&file).map_err(|source| CliError::Read { file, source })?
                    }
                    None => String::new(),
                };
                set(args, &host, endpoints(&urls, &ca_pem, address)?).await
            }
            Self::Remove { host } => {
                let named = wire::Name { name: host.to_string() };
                let reply = args.connect()?.remove_registry(request(named)).await;
                reply.map_err(|status| args.refused(&status))?;
                Ok(args.output.done(format!("registry {host} removed"))?)
            }
        }
    }
}

async fn list(args: &ManagerArgs) -> Result<String, CliError> {
    let reply = args.connect()?.list_registries(request(wire::Empty {})).await;
    let registries = reply.map_err(|status| args.refused(&status))?.into_inner().registries;
    let registries: Vec<_> = registries.into_iter().map(RegistryView::from).collect();
    let rows = |registries: &Vec<RegistryView>| {
        table(["host", "endpoint", "ca", "address"], registries.iter().flat_map(RegistryView::rows))
    };
    Ok(args.output.render(&registries, rows)?)
}

async fn set(
    args: &ManagerArgs,
    host: &RegistryHost,
    endpoints: Vec<wire::Endpoint>,
) -> Result<String, CliError> {
    let registry = wire::Registry { host: host.to_string(), endpoints, ..Default::default() };
    let reply = args.connect()?.set_registry(request(registry)).await;
    reply.map_err(|status| args.refused(&status))?;
    Ok(args.output.done(format!("registry {host} set"))?)
}

fn endpoints(
    urls: &[EndpointUrl],
    ca_pem: &str,
    address: Option<SocketAddr>,
) -> Result<Vec<wire::Endpoint>, CliError> {
    if urls.len() > 1 && address.is_some() {
        return Err(CliError::Usage(
            "--address goes with one --url: several endpoints at one address are one",
        ));
    }
    let endpoint = |url: &EndpointUrl| wire::Endpoint {
        url: url.to_string(),
        // A plain endpoint has no certificate to check.
        ca_pem: if url.is_https() { ca_pem.to_owned() } else { String::new() },
        address: address.map(|address| address.to_string()).unwrap_or_default(),
        ..Default::default()
    };
    if !ca_pem.is_empty() && !urls.iter().any(EndpointUrl::is_https) {
        return Err(CliError::Usage("--ca is for https:// endpoints"));
    }
    Ok(urls.iter().map(endpoint).collect())
}

#[derive(Debug, Serialize)]
pub(super) struct RegistryView {
    pub(super) host: String,
    pub(super) endpoints: Vec<EndpointView>,
}

#[derive(Debug, Serialize)]
pub(super) struct EndpointView {
    pub(super) url: String,
    pub(super) ca_pem: Option<String>,
    pub(super) address: Option<String>,
}

impl RegistryView {
    fn rows(&self) -> impl Iterator<Item = [String; 4]> {
        self.endpoints.iter().map(|endpoint| {
            let ca = if endpoint.ca_pem.is_some() { "own" } else { "system" };
            [self.host.clone(), endpoint.url.clone(), ca.to_owned(), or_dash(endpoint.address.as_deref())]
        })
    }
}

impl From<wire::Registry> for RegistryView {
    fn from(registry: wire::Registry) -> Self {
        let present = |text: String| (!text.is_empty()).then_some(text);
        let endpoints = registry.endpoints.into_iter().map(|endpoint| EndpointView {
            url: endpoint.url,
            ca_pem: present(endpoint.ca_pem),
            address: present(endpoint.address),
        });
        Self { host: registry.host, endpoints: endpoints.collect() }
    }
}
