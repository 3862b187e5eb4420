//! The scheduler's configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use flotilla_daemon::config::{AdminConfig, LogConfig, ManagerConfig, MetricsConfig};
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
    /// Where peers attach.
    pub listen: SocketAddr,
    /// Where peers reach it, if that is another address than `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// How it first meets the manager.
    pub manager: ManagerConfig,
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
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4003)),
            advertise: None,
            manager: ManagerConfig::default(),
            admin: AdminConfig::on_port(4004),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }
}
