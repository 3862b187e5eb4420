//! The verbs that the stories are told in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser as _;
use flotilla_daemon::config::ManagerConfig;
use flotilla_daemon::identity::{NodeIdentity, OpenIdentityError};
use flotilla_daemon::settings::{self, RegionSettings};
use flotilla_manager::cli::{
    ManagerArgs, PeerCommand, RegionCommand, RegistryCommand, TokenCommand, TopologyCommand,
};
use flotilla_manager::identity::Ca;
use flotilla_manager::{Config, Manager};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// One manager and the directory that all of a test lives in.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) address: SocketAddr,
    pub(crate) admin_address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
    watchers: JoinSet<()>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A manager that knows the region `eu`.
    pub(crate) async fn with_region() -> Self {
        let cluster = Self::start().await;
        cluster.run("region add eu").await.unwrap();
        cluster
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: dir.path().join("manager-state"),
            listen: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        config.admin.listen = "127.0.0.1:0".parse().unwrap();
        adjust(&mut config);
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut cluster =
            Self { dir, config, address: any, admin_address: any, running: None, watchers: JoinSet::new() };
        cluster.start_manager().await;
        // The port it got is the one it comes back to.
        cluster.config.listen = cluster.address;
        cluster
    }

    pub(crate) async fn start_manager(&mut self) {
        let manager = Manager::start(&self.config).await.unwrap();
        self.address = manager.address().unwrap();
        self.admin_address = manager.admin_address().unwrap();
        let shutdown = CancellationToken::new();
        self.running = Some((shutdown.clone(), tokio::spawn(manager.serve(shutdown))));
    }

    pub(crate) async fn stop_manager(&mut self) {
        let (shutdown, running) = self.running.take().unwrap();
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }

    pub(crate) fn admin_dir(&self) -> PathBuf {
        self.config.data_dir.join("admin")
    }

    pub(crate) fn admin(&self) -> NodeIdentity {
        NodeIdentity::load(&self.admin_dir()).unwrap()
    }

    /// Runs a line of the command line, as in `region add eu`.
    pub(crate) async fn run(&self, line: &str) -> Result<String, String> {
        let manager = format!("https://{}", self.address);
        run_as(&manager, &self.admin_dir(), line).await
    }

    pub(crate) async fn token(&self, region: &str, role: &str) -> String {
        self.token_with(&format!("--region {region} --role {role}")).await
    }

    pub(crate) async fn token_with(&self, options: &str) -> String {
        let created = self.run(&format!("token create {options} --output json")).await.unwrap();
        let created: serde_json::Value = serde_json::from_str(&created).unwrap();
        created["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn daemon_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }

    pub(crate) async fn enrol_with(&self, id: &str, token: &str) -> Result<NodeIdentity, OpenIdentityError> {
        let manager = ManagerConfig { join_token: Some(token.to_owned().into()), ..ManagerConfig::default() };
        NodeIdentity::open(&self.daemon_dir(id), &id.parse().unwrap(), &manager).await
    }

    pub(crate) async fn enrol(&self, id: &str, region: &str, role: &str) -> NodeIdentity {
        let token = self.token(region, role).await;
        self.enrol_with(id, &token).await.unwrap()
    }

    /// Puts a certificate in place of a daemon's that ended long ago.
    pub(crate) fn expire(&self, identity: &NodeIdentity) {
        let ca = Ca::open(&self.config.data_dir, &self.config.cluster).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(30 * 24 * 60 * 60);
        let minute = Duration::from_secs(60);
        let expired = ca.issue(identity.identity(), identity.public_key(), long_ago, minute).unwrap();
        let dir = self.daemon_dir(identity.identity().id.as_str());
        std::fs::write(dir.join("cert.pem"), crate::tls::to_pem(&expired)).unwrap();
    }

    /// Follows the settings as the daemon would, reached at `advertise`.
    pub(crate) fn watch(&mut self, identity: &NodeIdentity, advertise: &str) -> settings::Receiver {
        let dir = self.daemon_dir(identity.identity().id.as_str());
        let (receiver, follow) = settings::watch(identity.clone(), &dir, advertise.to_owned()).unwrap();
        self.watchers.spawn(async move { drop(follow.await) });
        receiver
    }

    /// Stops all that [`Self::watch`] started.
    pub(crate) async fn stop_watching(&mut self) {
        self.watchers.shutdown().await;
    }
}

pub(crate) async fn run_as(manager: &str, identity: &Path, line: &str) -> Result<String, String> {
    let identity = identity.to_str().unwrap();
    let mut words = vec!["flotilla", "--wait", "0", "--manager", manager, "--identity", identity];
    words.extend(line.split_whitespace());
    let CommandLine { args, command } =
        CommandLine::try_parse_from(words).map_err(|error| error.render().to_string())?;
    let answer = match command {
        Command::Region { verb } => verb.execute(&args).await,
        Command::Registry { verb } => verb.execute(&args).await,
        Command::Token { verb } => verb.execute(&args).await,
        Command::Peer { verb } => verb.execute(&args).await,
        Command::Topology { verb } => verb.execute(&args).await,
    };
    answer.map_err(|error| error.to_string())
}

/// Waits until the settings are as they should be.
pub(crate) async fn settled(
    receiver: &mut settings::Receiver,
    as_expected: impl FnMut(&Arc<RegionSettings>) -> bool,
) -> Arc<RegionSettings> {
    within(receiver.wait_for(as_expected)).await.unwrap().clone()
}

/// Long enough for a busy machine; a test that is right never waits so long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap()
}

/// The verbs, put together as the root binary does it.
#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    args: ManagerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Region {
        #[command(subcommand)]
        verb: RegionCommand,
    },
    Registry {
        #[command(subcommand)]
        verb: RegistryCommand,
    },
    Token {
        #[command(subcommand)]
        verb: TokenCommand,
    },
    Peer {
        #[command(subcommand)]
        verb: PeerCommand,
    },
    Topology {
        #[command(subcommand)]
        verb: TopologyCommand,
    },
}

/// Every verb's long help.
pub(crate) fn helps() -> Vec<(String, String)> {
    let mut root = <CommandLine as clap::CommandFactory>::command();
    root.build();
    let mut helps = Vec::new();
    for group in root.get_subcommands_mut().filter(|group| group.get_name() != "help") {
        let name = group.get_name().to_owned();
        for verb in group.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            helps.push((format!("{name} {}", verb.get_name()), verb.render_long_help().to_string()));
        }
    }
    helps
}
