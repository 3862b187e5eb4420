//! The scheduler's configuration.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use flotilla_daemon::config::{AdminConfig, Bandwidth, LogConfig, ManagerConfig, MetricsConfig};
use flotilla_daemon::net::{AdvertiseError, check_advertise};
use flotilla_proto::PeerId;
use serde::{Deserialize, Serialize};

/// `scheduler.toml`. Every key is optional.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// This daemon's name in the cluster; the machine's name where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerId>,
    /// Where its identity and the settings are kept.
    pub data_dir: PathBuf,
    /// Where peers attach. `[::]` is every address of both families.
    pub listen: SocketAddr,
    /// Where peers reach it, if that is another address than `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// How it first meets the manager.
    pub manager: ManagerConfig,
    /// What is special about zones, by name. Peers that name no zone are in `""`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, ZoneConfig>,
    /// Health, status and metrics, for this machine.
    pub admin: AdminConfig,
    /// Metrics, for a Prometheus elsewhere.
    pub metrics: MetricsConfig,
    /// What is logged.
    pub log: LogConfig,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            name: None,
            data_dir: PathBuf::from("/var/lib/flotilla/scheduler"),
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4003)),
            advertise: None,
            manager: ManagerConfig::default(),
            zones: BTreeMap::new(),
            admin: AdminConfig::on_port(4004),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl SchedulerConfig {
    /// Checks what a type cannot: for `--check`, and before a start.
    ///
    /// # Errors
    ///
    /// Names the key.
    pub fn validate(&self) -> Result<(), AdvertiseError> {
        check_advertise(self.advertise, self.listen)
    }
}

/// `[zones.NAME]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZoneConfig {
    /// What pieces may take of the link that joins the zone to all others, a second, each way;
    /// all of it unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}
