//! One daemon of the region: its directory, its addresses, the configuration that says so.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use flotilla_proto::{RegistryHost, Role};
use serde::Serialize;

use super::ports::{Ports, PortsError};
use crate::local::child::Program;
use crate::local::registry::Account;

/// A daemon as `up` lays it out.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    /// Its name in the cluster, and its directory's.
    pub(crate) name: String,
    /// What it does.
    pub(crate) role: Role,
    /// Everything of it lives here.
    pub(crate) home: PathBuf,
    /// Health, metrics and status.
    pub(crate) admin: SocketAddr,
    /// Manager and scheduler: gRPC. Peer and seed: the front door.
    pub(crate) listen: SocketAddr,
    /// Where peer and seed swap pieces; the others have none.
    transport: Option<SocketAddr>,
}

impl Daemon {
    /// Makes the directory of `name` under `root` and finds its ports.
    pub(crate) fn lay_out(
        root: &Path,
        name: &str,
        role: Role,
        ports: &mut Ports,
    ) -> Result<Self, LayOutError> {
        let home = root.join(name);
        make_private_directory(&home)
            .map_err(|source| LayOutError::Directory { home: home.clone(), source })?;
        let serves_clients = match role {
            Role::Peer | Role::Seed => true,
            Role::Manager | Role::Scheduler | Role::Admin => false,
        };
        Ok(Self {
            role,
            home,
            admin: ports.address(name, "admin")?,
            listen: ports.address(name, if serves_clients { "door" } else { "listen" })?,
            transport: serves_clients.then(|| ports.address(name, "transport")).transpose()?,
            name: name.to_owned(),
        })
    }

    /// Writes its configuration file.
    pub(crate) fn write_config(&self, settings: &Settings) -> io::Result<()> {
        fs::write(self.config_file(), self.config(settings))
    }

    /// `executable` run as this daemon.
    pub(crate) fn program(&self, executable: &Path) -> Program {
        let subcommand = match self.role {
            Role::Manager => "manager",
            Role::Scheduler => "scheduler",
            Role::Peer | Role::Seed => "peer",
            Role::Admin => unreachable!("an admin is a person"),
        };
        let config_file = self.config_file();
        let arguments =
            [subcommand.as_ref(), "--config".as_ref(), config_file.as_os_str(), "--stop-with-stdin".as_ref()];
        Program::new(&self.name, executable, arguments, self.home.join("log"))
    }

    /// The file with the join token, for those who join.
    pub(crate) fn join_token_file(&self) -> PathBuf {
        self.home.join("join-token")
    }

    /// The certificates that clients of its front door need; the peer writes it.
    pub(crate) fn ca_bundle(&self) -> PathBuf {
        self.home.join("ca-bundle.pem")
    }

    fn config_file(&self) -> PathBuf {
        self.home.join("config.toml")
    }

    fn config(&self, settings: &Settings) -> String {
        let mut config = Config {
            name: None,
            data_dir: &self.home,
            cluster: None,
            listen: None,
            advertise: None,
            admin: Listen { listen: self.admin },
            log: Log { level: "info", format: "text" },
            manager: None,
            door: None,
            transport: None,
            store: None,
            source: None,
        };
        match self.role {
            Role::Manager => config.cluster = Some(CLUSTER),
            Role::Scheduler | Role::Peer | Role::Seed | Role::Admin => {
                config.name = Some(&self.name);
                config.manager = Some(Join { join_token_file: self.join_token_file() });
            }
        }
        match self.transport {
            None => (config.listen, config.advertise) = (Some(self.listen), Some(self.listen)),
            Some(transport) => {
                config.door = Some(Listen { listen: self.listen });
                config.transport = Some(Listen { listen: transport });
                config.store = Some(Store { quota: settings.quota });
            }
        }
        if self.role == Role::Seed && !settings.robots.is_empty() {
            config.source = Some(Source { robots: &settings.robots });
        }
        toml::to_string(&config).expect("a configuration of texts and tables is TOML")
    }
}

/// What the daemons of one region have in common.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Bytes that each peer's store may hold.
    pub(crate) quota: ByteSize,
    /// The accounts that the seed reads with, by registry.
    pub(crate) robots: BTreeMap<RegistryHost, Account>,
}

/// The region's and the cluster's name.
pub(crate) const CLUSTER: &str = "local";

#[derive(Serialize)]
struct Config<'a> {
    name: Option<&'a str>,
    data_dir: &'a Path,
    cluster: Option<&'a str>,
    listen: Option<SocketAddr>,
    advertise: Option<SocketAddr>,
    admin: Listen,
    log: Log,
    manager: Option<Join>,
    door: Option<Listen>,
    transport: Option<Listen>,
    store: Option<Store>,
    source: Option<Source<'a>>,
}

#[derive(Serialize)]
struct Join {
    join_token_file: PathBuf,
}

#[derive(Serialize)]
struct Listen {
    listen: SocketAddr,
}

#[derive(Serialize)]
struct Log {
    level: &'static str,
    format: &'static str,
}

#[derive(Serialize)]
struct Store {
    quota: ByteSize,
}

#[derive(Serialize)]
struct Source<'a> {
    robots: &'a BTreeMap<RegistryHost, Account>,
}

/// Keys and tokens lie in there.
fn make_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Why a daemon cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayOutError {
    /// Its directory.
    #[error("make directory {}", home.display())]
    Directory {
        /// The directory.
        home: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its ports.
    #[error("find ports")]
    Ports(#[from] PortsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_told_everything_it_cannot_guess() {
        let root = tempfile::tempdir().unwrap();
        let mut ports = Ports::default();
        let seed = Daemon::lay_out(root.path(), "seed-0", Role::Seed, &mut ports).unwrap();
        let account = Account { user: "robot".into(), password_file: "/secret".into() };
        let robots = [("reg.test:5000".parse().unwrap(), account)].into();
        let settings = Settings { quota: ByteSize::gib(4), robots };
        let config: toml::Table = seed.config(&settings).parse().unwrap();
        assert_eq!(config["name"].as_str(), Some("seed-0"));
        assert_eq!(config["data_dir"].as_str(), seed.home.to_str());
        assert_eq!(config["manager"]["join_token_file"].as_str(), seed.join_token_file().to_str());
        assert_eq!(config["door"]["listen"].as_str(), Some(&*seed.listen.to_string()));
        assert_eq!(config["store"]["quota"].as_str(), Some("4.0 GiB"));
        assert_eq!(config["source"]["robots"]["reg.test:5000"]["user"].as_str(), Some("robot"));
        assert!(!config.contains_key("cluster") && !config.contains_key("listen"), "{config}");
    }

    #[test]
    fn a_manager_listens_and_joins_nobody() {
        let root = tempfile::tempdir().unwrap();
        let manager = Daemon::lay_out(root.path(), "manager", Role::Manager, &mut Ports::default()).unwrap();
        let settings = Settings { quota: ByteSize::gib(4), robots: BTreeMap::new() };
        let config: toml::Table = manager.config(&settings).parse().unwrap();
        assert_eq!(config["cluster"].as_str(), Some(CLUSTER));
        assert_eq!(config["listen"], config["advertise"]);
        let keys: Vec<_> = config.keys().map(String::as_str).collect();
        assert_eq!(keys, ["admin", "advertise", "cluster", "data_dir", "listen", "log"]);
    }
}
