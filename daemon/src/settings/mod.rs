//! The settings of this daemon's region, as the manager last sent them.

mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use flotilla_proto::wire::manager as wire;
use flotilla_proto::{Identity, ParseLabelError, PeerId, RegionName, RegistryHost};
use http::Uri;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::authority::host_and_port;

pub use watch::{NoRegionError, watch};

/// What the manager settles for a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSettings {
    /// Grows with every change; 0: none were received yet.
    pub revision: u64,
    /// The cluster.
    pub cluster: RegionName,
    /// The region.
    pub region: RegionName,
    /// The registries whose images are carried.
    pub registries: Vec<Upstream>,
    /// The region's schedulers that have said where they are.
    pub schedulers: Vec<DaemonAddress>,
    /// The configured seeds, alive or not: they decide a digest's home seed.
    pub seeds: Vec<DaemonAddress>,
}

/// One registry under the host that image names carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `host` or `host:port`, as in image names.
    pub host: RegistryHost,
    /// What serves it, in order of preference; never empty.
    pub endpoints: Vec<Endpoint>,
}

/// One address that serves an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to send requests.
    pub url: EndpointUrl,
    /// CA certificates in PEM, trusted beside the system's roots.
    pub ca_pem: Option<String>,
    /// Dialled instead of what the URL's host resolves to.
    pub address: Option<SocketAddr>,
}

/// `https://host[:port]` or `http://host[:port]`: no path, no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    uri: Uri,
}

impl EndpointUrl {
    /// Whether requests go over TLS.
    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The host, with brackets around an IPv6 address.
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The port, written or the scheme's.
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// The host and, if one is written, the port, as the `Host` header has them.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", http::uri::Authority::as_str)
    }
}

impl std::str::FromStr for EndpointUrl {
    type Err = ParseRegistryError;

    fn from_str(text: &str) -> Result<Self, ParseRegistryError> {
        let refused = || ParseRegistryError::Url { url: text.to_owned() };
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let plain = uri.authority().is_some_and(|authority| host_and_port(authority).is_some());
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !matches!(uri.scheme_str(), Some("http" | "https")) || !plain || !bare {
            return Err(refused());
        }
        Ok(Self { uri })
    }
}

impl std::fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.uri.scheme_str().unwrap_or_default(), self.authority())
    }
}

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DaemonAddress {
    /// Its name, which dialling it verifies.
    pub id: PeerId,
    /// Where other daemons reach it.
    pub address: SocketAddr,
}

impl RegionSettings {
    /// Before the first word from the manager; `None` for an identity outside any region.
    pub fn none_yet(identity: &Identity) -> Option<Self> {
        Some(Self {
            revision: 0,
            cluster: identity.cluster.clone(),
            region: identity.region.clone()?,
            registries: Vec::new(),
            schedulers: Vec::new(),
            seeds: Vec::new(),
        })
    }

    /// Parses a message. What of it is malformed is left out with a warning: one registry
    /// that cannot be read must not take the others away.
    ///
    /// # Errors
    ///
    /// If the cluster or the region has no proper name.
    pub fn from_wire(message: &wire::RegionSettings) -> Result<Self, ParseLabelError> {
        let skip = |what: &str, name: &str, error: &dyn std::fmt::Display| {
            tracing::warn!(name, %error, "{what} in the settings cannot be read; left out");
        };
        let addresses = |what: &str, daemons: &[wire::DaemonAddress]| {
            daemons
                .iter()
                .filter_map(|daemon| {
                    DaemonAddress::from_wire(daemon).map_err(|error| skip(what, &daemon.id, &error)).ok()
                })
                .collect()
        };
        let registries = message.registries.iter().filter_map(|registry| {
            Upstream::from_wire(registry).map_err(|error| skip("a registry", &registry.host, &error)).ok()
        });
        Ok(Self {
            revision: message.revision,
            cluster: message.cluster.parse()?,
            region: message.region.parse()?,
            registries: registries.collect(),
            schedulers: addresses("a scheduler", &message.schedulers),
            seeds: addresses("a seed", &message.seeds),
        })
    }

    /// The upstream that image names call `host`.
    pub fn upstream(&self, host: &RegistryHost) -> Option<&Upstream> {
        self.registries.iter().find(|upstream| upstream.host == *host)
    }
}

impl Upstream {
    /// Parses a registry, strictly: the manager refuses what this refuses.
    ///
    /// # Errors
    ///
    /// Names the part that is wrong.
    pub fn from_wire(registry: &wire::Registry) -> Result<Self, ParseRegistryError> {
        let host = registry
            .host
            .parse()
            .map_err(|source| ParseRegistryError::Host { host: registry.host.clone(), source })?;
        if registry.endpoints.is_empty() {
            return Err(ParseRegistryError::NoEndpoint);
        }
        let endpoints = registry.endpoints.iter().map(Endpoint::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { host, endpoints })
    }
}

impl Endpoint {
    fn from_wire(endpoint: &wire::Endpoint) -> Result<Self, ParseRegistryError> {
        let url: EndpointUrl = endpoint.url.parse()?;
        let address = match endpoint.address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| ParseRegistryError::Address { address: text.to_owned() })?),
        };
        let ca_pem = match endpoint.ca_pem.as_str() {
            "" => None,
            pem if holds_certificates(pem) => Some(pem.to_owned()),
            _ => return Err(ParseRegistryError::Ca { url: endpoint.url.clone() }),
        };
        Ok(Self { url, ca_pem, address })
    }
}

impl DaemonAddress {
    fn from_wire(daemon: &wire::DaemonAddress) -> Result<Self, ParseDaemonAddressError> {
        Ok(Self { id: daemon.id.parse()?, address: daemon.address.parse()? })
    }
}

/// Whether the PEM holds certificates that can be trusted as roots, and nothing broken.
fn holds_certificates(pem: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    let all_usable = CertificateDer::pem_slice_iter(pem.as_bytes())
        .all(|certificate| certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()));
    all_usable && !roots.is_empty()
}

/// The settings of the moment, followed through a channel.
pub type Receiver = tokio::sync::watch::Receiver<Arc<RegionSettings>>;

/// Why a registry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRegistryError {
    /// Not a host as image names carry it.
    #[error("registry `{host}`: {source}")]
    Host {
        /// What stands there.
        host: String,
        /// What is wrong with it.
        source: flotilla_proto::ParseNameError,
    },
    /// Nothing serves it.
    #[error("a registry needs at least one endpoint")]
    NoEndpoint,
    /// Not an endpoint's URL.
    #[error("endpoint `{url}`: a URL here reads https://host[:port] or http://host[:port], without a path")]
    Url {
        /// What stands there.
        url: String,
    },
    /// Not an address to dial.
    #[error("address `{address}`: an address here reads ip:port")]
    Address {
        /// What stands there.
        address: String,
    },
    /// No CA in the CA's place.
    #[error("endpoint `{url}`: the CA file holds no certificate in PEM")]
    Ca {
        /// The endpoint's URL.
        url: String,
    },
}

#[derive(Debug, thiserror::Error)]
enum ParseDaemonAddressError {
    #[error(transparent)]
    Id(#[from] ParseLabelError),
    #[error("its address reads ip:port")]
    Address(#[from] std::net::AddrParseError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(host: &str, url: &str) -> wire::Registry {
        let endpoint = wire::Endpoint { url: url.into(), ..Default::default() };
        wire::Registry { host: host.into(), endpoints: vec![endpoint] }
    }

    #[test]
    fn a_malformed_registry_does_not_take_the_others_away() {
        let message = wire::RegionSettings {
            revision: 3,
            cluster: "prod".into(),
            region: "eu".into(),
            registries: vec![registry("not a host", "https://a"), registry("reg.test", "https://reg.test")],
            schedulers: vec![wire::DaemonAddress { id: "s-0".into(), address: "nowhere".into() }],
            seeds: vec![wire::DaemonAddress { id: "seed-0".into(), address: "10.0.0.1:4006".into() }],
        };
        let settings = RegionSettings::from_wire(&message).unwrap();
        assert_eq!(settings.registries.len(), 1);
        assert!(settings.upstream(&"reg.test:443".parse().unwrap()).is_some());
        assert!(settings.schedulers.is_empty());
        assert_eq!(settings.seeds.len(), 1);
    }

    #[test]
    fn an_endpoint_says_what_is_wrong_with_it() {
        for url in [
            "ftp://a",
            "a:5000",
            "https://",
            "https://u:p@a",
            "https://a/v2",
            "https://a?b",
            "https://a:0",
            "https://a:99999",
        ] {
            let error = Upstream::from_wire(&registry("reg.test", url)).unwrap_err();
            assert_eq!(error, ParseRegistryError::Url { url: url.into() });
        }
        let mut with_ca = registry("reg.test", "https://reg.test");
        with_ca.endpoints[0].ca_pem = "no certificate".into();
        assert_eq!(
            Upstream::from_wire(&with_ca).unwrap_err().to_string(),
            "endpoint `https://reg.test`: the CA file holds no certificate in PEM"
        );
    }

    #[test]
    fn an_endpoint_knows_its_port() {
        for (url, port, https) in
            [("https://a", 443, true), ("http://a", 80, false), ("http://[::1]:5000/", 5000, false)]
        {
            let url: EndpointUrl = url.parse().unwrap();
            assert_eq!((url.port(), url.is_https()), (port, https));
        }
    }
}
