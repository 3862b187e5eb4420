//! The manager's configuration file.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use flotilla_daemon::config::{AdminConfig, LogConfig, MetricsConfig};
use flotilla_daemon::identity::{ManagerUrl, ParseManagerUrlError};
use flotilla_proto::RegionName;
use serde::{Deserialize, Serialize};

/// All there is to configure.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The cluster's name, which every certificate carries. Fixed at the first start.
    pub cluster: RegionName,
    /// Where the database, the CA and the admin's identity are kept.
    pub data_dir: PathBuf,
    /// Where daemons and the command line reach the manager. `[::]` is every address of both
    /// families.
    pub listen: SocketAddr,
    /// `host:port` that join tokens name; without it, `listen`, or this machine's name
    /// where `listen` is any address.
    pub advertise: Option<String>,
    /// How long a certificate is good; daemons renew after two thirds.
    #[serde(with = "flotilla_daemon::config::duration")]
    pub certificate_lifetime: Duration,
    /// Health and metrics, for this machine.
    pub admin: AdminConfig,
    /// Metrics, for elsewhere.
    pub metrics: MetricsConfig,
    /// What is logged.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: "flotilla".parse().expect("`flotilla` is a DNS label"),
            data_dir: DEFAULT_DATA_DIR.into(),
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4000)),
            advertise: None,
            certificate_lifetime: Duration::from_secs(7 * 24 * 60 * 60),
            admin: AdminConfig::on_port(4002),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// Checks what a type cannot: for `--check`, and before a start.
    ///
    /// # Errors
    ///
    /// Names the key.
    pub fn validate(&self) -> Result<(), InvalidConfigError> {
        if !LIFETIMES.contains(&self.certificate_lifetime) {
            return Err(InvalidConfigError::CertificateLifetime);
        }
        match &self.advertise {
            Some(address) => parse_advertise(address).map(drop),
            None => Ok(()),
        }
    }

    /// The URL that join tokens name, for a manager that listens at `bound`.
    pub(crate) fn manager_url(&self, bound: SocketAddr) -> Result<ManagerUrl, InvalidConfigError> {
        let address = match &self.advertise {
            Some(address) => return parse_advertise(address),
            None if bound.ip().is_unspecified() => {
                format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), bound.port())
            }
            None => bound.to_string(),
        };
        parse_advertise(&address)
    }
}

fn parse_advertise(address: &str) -> Result<ManagerUrl, InvalidConfigError> {
    format!("https://{address}").parse().map_err(InvalidConfigError::Advertise)
}

/// Where a manager keeps its state unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/flotilla/manager";

/// Short enough that a stolen key is of little use; long enough that certificates, which
/// count in whole seconds, can be renewed in time.
const LIFETIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_secs(366 * 24 * 60 * 60);

/// A value that no manager can work with.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfigError {
    /// Not `host:port`.
    #[error("advertise: {0}")]
    Advertise(ParseManagerUrlError),
    /// Too short or too long.
    #[error("certificate_lifetime: give between 2s and 366days")]
    CertificateLifetime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_read_back() {
        let config = Config::default();
        config.validate().unwrap();
        let text = flotilla_daemon::config::effective(&config);
        assert!(text.contains("certificate_lifetime = \"7days\""), "{text}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("manager.toml");
        std::fs::write(&file, &text).unwrap();
        let read: Config = flotilla_daemon::config::load(Some(&file)).unwrap();
        assert_eq!(read.listen, config.listen);
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let config = Config { advertise: Some("no port:x".into()), ..Config::default() };
        assert!(config.validate().unwrap_err().to_string().starts_with("advertise: "));
        let config = Config { certificate_lifetime: Duration::ZERO, ..Config::default() };
        assert!(config.validate().unwrap_err().to_string().starts_with("certificate_lifetime: "));
    }
}
