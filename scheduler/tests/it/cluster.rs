//! A cluster in this process: a real manager with one region, and whoever joins it. The
//! peer's tests use this file too.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use flotilla_daemon::config::ManagerConfig;
use flotilla_daemon::identity::{IdentityBundle, NodeIdentity};
use flotilla_daemon::rpc::{self, TopologyClient};
use flotilla_manager::identity::Ca;
use flotilla_manager::{Config, Manager};
use flotilla_proto::Identity;
use flotilla_proto::wire::manager::{CreateTokenRequest, Name, Region};
use flotilla_scheduler::SchedulerConfig;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// The region that every cluster has.
pub(crate) const REGION: &str = "eu";

/// The name of the region's scheduler.
pub(crate) const SCHEDULER: &str = "planner";

/// One manager, the daemons that joined, and the directory that all of them live in.
pub(crate) struct Cluster {
    /// Dropped first, so that nothing outlives the directory.
    daemons: JoinSet<()>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) dir: tempfile::TempDir,
    config: Config,
}

impl Cluster {
    /// A manager that knows one region.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: dir.path().join("manager-state"),
            listen: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        config.admin.listen = "127.0.0.1:0".parse().unwrap();
        let manager = Manager::start(&config).await.unwrap();
        let shutdown = CancellationToken::new();
        let mut daemons = JoinSet::new();
        let serve = manager.serve(shutdown.clone());
        daemons.spawn(async move { serve.await.unwrap() });
        let cluster = Self { daemons, shutdown, dir, config };
        cluster.add_region(REGION).await;
        cluster
    }

    pub(crate) async fn add_region(&self, name: &str) {
        let region = Region { name: name.into(), description: String::new() };
        self.topology().add_region(region).await.unwrap();
    }

    /// The manager, as its admin calls it.
    pub(crate) fn topology(&self) -> TopologyClient<Channel> {
        let admin = NodeIdentity::load(&self.config.data_dir.join("admin")).unwrap();
        TopologyClient::new(rpc::manager_channel(&admin))
    }

    pub(crate) async fn joining(&self, region: &str, role: &str) -> ManagerConfig {
        let request = CreateTokenRequest {
            region: region.into(),
            role: role.into(),
            lifetime_seconds: 600,
            uses: 1,
            unlimited: false,
        };
        let created = self.topology().create_token(request).await.unwrap().into_inner();
        ManagerConfig { join_token: Some(created.token.into()), ..ManagerConfig::default() }
    }

    /// Where a daemon keeps what it has.
    pub(crate) fn daemon_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An identity got from the manager as daemons get theirs.
    pub(crate) async fn enrol(&self, name: &str, region: &str, role: &str) -> NodeIdentity {
        let manager = self.joining(region, role).await;
        let dir = self.daemon_dir(name).join("identity");
        NodeIdentity::open(&dir, &name.parse().unwrap(), &manager).await.unwrap()
    }

    /// Removes a daemon, as its operator does.
    pub(crate) async fn remove(&self, name: &str) {
        self.topology().remove_daemon(Name { name: name.into() }).await.unwrap();
    }

    /// A certificate of the cluster's own CA that no join token gives.
    pub(crate) fn issue(&self, identity: &str) -> NodeIdentity {
        let identity: Identity = identity.parse().unwrap();
        let ca = Ca::open(&self.config.data_dir, &self.config.cluster).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let hour = Duration::from_secs(3600);
        let certificate = ca.issue(&identity, &key, SystemTime::now(), hour).unwrap();
        let bundle = IdentityBundle {
            chain: vec![certificate],
            key_pem: key.serialize_pem(),
            ca: ca.certificate().clone(),
            manager: "https://127.0.0.1:4000".parse().unwrap(),
        };
        NodeIdentity::create(&self.daemon_dir(identity.id.as_str()), &bundle).unwrap()
    }

    /// Starts the region's scheduler.
    pub(crate) async fn start_scheduler(&mut self) {
        let mut config = SchedulerConfig {
            name: Some(SCHEDULER.parse().unwrap()),
            data_dir: self.daemon_dir(SCHEDULER),
            listen: "127.0.0.1:0".parse().unwrap(),
            manager: self.joining(REGION, "scheduler").await,
            ..SchedulerConfig::default()
        };
        config.admin.listen = "127.0.0.1:0".parse().unwrap();
        let run = flotilla_scheduler::run(config, self.shutdown.clone());
        self.spawn(async move { run.await.unwrap() });
    }

    /// Runs a daemon for as long as the cluster.
    pub(crate) fn spawn(&mut self, daemon: impl Future<Output = ()> + Send + 'static) {
        self.daemons.spawn(daemon);
    }
}

/// Long enough for a busy machine; a test that is right never waits so long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within 30 s")
}
