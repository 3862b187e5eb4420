//! The settings of this daemon's region, as the manager last sent them.

mod cap;
mod endpoint;
mod upstream;
mod url;
mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use flotilla_proto::wire::manager as wire;
use flotilla_proto::{Identity, KeyHash, ParseLabelError, PeerId, RegionName, RegistryHost};

pub use cap::{Cap, Hours, ParseCapError, ParseHoursError};
pub use endpoint::{Endpoint, ParseWeightError, Weight};
pub use upstream::{
    GrantLife, Offline, OfflineForError, ParseGrantLifeError, ParseRegistryError, ParseReleaseError, Release,
    Upstream,
};
pub use url::{EndpointUrl, ParseProxyError, ProxyUrl};
pub use watch::{NoRegionError, Removed, watch};

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
    /// Keys that nobody trusts any more, of every region.
    pub revoked_keys: BTreeSet<KeyHash>,
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
            revoked_keys: BTreeSet::new(),
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
        let revoked_keys = message.revoked_keys.iter().filter_map(|key| {
            KeyHash::try_from(&key[..]).map_err(|error| skip("a revoked key", "", &error)).ok()
        });
        Ok(Self {
            revision: message.revision,
            cluster: message.cluster.parse()?,
            region: message.region.parse()?,
            registries: registries.collect(),
            schedulers: addresses("a scheduler", &message.schedulers),
            seeds: addresses("a seed", &message.seeds),
            revoked_keys: revoked_keys.take(MAX_REVOKED_KEYS).collect(),
        })
    }

    /// The upstream that image names call `host`.
    pub fn upstream(&self, host: &RegistryHost) -> Option<&Upstream> {
        self.registries.iter().find(|upstream| upstream.host == *host)
    }
}

impl DaemonAddress {
    fn from_wire(daemon: &wire::DaemonAddress) -> Result<Self, ParseDaemonAddressError> {
        Ok(Self { id: daemon.id.parse()?, address: daemon.address.parse()? })
    }
}

/// Revoked keys in the settings at most, half a megabyte. The manager keeps to it.
pub const MAX_REVOKED_KEYS: usize = 16 * 1024;

/// The settings of the moment, followed through a channel.
pub type Receiver = tokio::sync::watch::Receiver<Arc<RegionSettings>>;

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
        wire::Registry { host: host.into(), endpoints: vec![endpoint], ..Default::default() }
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
            revoked_keys: vec![vec![7; 31].into(), vec![7; 32].into()],
        };
        let settings = RegionSettings::from_wire(&message).unwrap();
        assert_eq!(settings.registries.len(), 1);
        assert!(settings.upstream(&"reg.test:443".parse().unwrap()).is_some());
        assert!(settings.schedulers.is_empty());
        assert_eq!(settings.seeds.len(), 1);
        assert_eq!(settings.revoked_keys.len(), 1);
    }
}
