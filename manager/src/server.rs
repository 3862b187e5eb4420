//! The daemon: builds the parts, says where it listens, runs them, ends them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flotilla_daemon::bind::bind_tcp;
use flotilla_daemon::files::create_private_dir;
use flotilla_daemon::identity::{ClientAuth, ManagerUrl, manager_id};
use flotilla_daemon::rpc;
use flotilla_daemon::shutdown::Tasks;
use flotilla_daemon::telemetry::{self, Admin, AdminListeners, Readiness};
use flotilla_proto::{Identity, Role};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{EnrolmentMetrics, Services};
use crate::config::Config;
use crate::identity::{ADMIN_ID, Ca, Issuing, OwnIdentities};
use crate::store::Store;
use crate::topology::Topology;
use crate::watch::Watchers;

/// Runs a manager until `shutdown`.
///
/// # Errors
///
/// If it cannot start, or ends out of order.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    Manager::start(&config).await?.serve(shutdown).await
}

/// A manager that listens and does not answer yet.
pub struct Manager {
    listener: TcpListener,
    admin: AdminListeners,
    own: OwnIdentities,
    ca: Arc<Ca>,
    topology: Topology,
    url: ManagerUrl,
    certificate_lifetime: Duration,
    enrolment: EnrolmentMetrics,
    metrics: Registry,
}

impl Manager {
    /// Opens the database and the CA, both made at the first start, and binds.
    ///
    /// # Errors
    ///
    /// Names the key, the file or the address that is in the way.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        config.validate()?;
        let data_dir = &config.data_dir;
        create_private_dir(data_dir).with_context(|| format!("create data_dir {}", data_dir.display()))?;
        // First, so that a second manager on this directory stops before it touches it.
        let listener = bind_tcp("listen", config.listen).await?;
        let admin = AdminListeners::bind(&config.admin, &config.metrics).await?;
        let url = config.manager_url(listener.local_addr()?)?;
        let store = Store::open(data_dir, &config.cluster).await?;
        let ca = Arc::new(Ca::open(data_dir, &config.cluster)?);
        let own = own_identities(data_dir, &ca, &url, config)?;
        let mut metrics = telemetry::registry();
        let watchers = Watchers::new(&mut metrics);
        let enrolment = EnrolmentMetrics::register(&mut metrics);
        let topology = Topology::new(config.cluster.clone(), store, watchers);
        let certificate_lifetime = config.certificate_lifetime;
        Ok(Self { listener, admin, own, ca, topology, url, certificate_lifetime, enrolment, metrics })
    }

    /// Where daemons and the command line reach it.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where health and metrics are.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.admin_address()
    }

    /// Answers until `shutdown`.
    ///
    /// # Errors
    ///
    /// If a part fails, or does not end in time.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let revision = self.topology.store().revision().await?;
        tracing::info!(
            cluster = %self.topology.cluster(),
            listen = %self.address()?,
            admin = %self.admin_address()?,
            advertise = %self.url,
            revision,
            "manager ready"
        );
        let tls = self.own.manager.server_config(&[rpc::ALPN_GRPC], ClientAuth::Optional);
        let mut tasks = Tasks::new(shutdown.clone());
        tasks
            .spawn_until_shutdown("renewal", self.own.renew_loop(self.ca.clone(), self.certificate_lifetime));
        let services = Services {
            topology: self.topology,
            ca: self.ca,
            url: self.url,
            certificate_lifetime: self.certificate_lifetime,
            metrics: self.enrolment,
            shutdown: shutdown.clone(),
        };
        let admin = Admin {
            metrics: Arc::new(self.metrics),
            readiness: Readiness::new(),
            routes: axum::Router::new(),
        };
        let grpc = rpc::serve(self.listener, tls, services.routes(), shutdown.clone());
        tasks.spawn_fallible("grpc", grpc);
        self.admin.serve(&mut tasks, admin);
        shutdown.cancelled().await;
        tasks.drain(DRAIN).await.context("stop the manager")
    }
}

fn own_identities(
    data_dir: &Path,
    ca: &Ca,
    url: &ManagerUrl,
    config: &Config,
) -> anyhow::Result<OwnIdentities> {
    let identity = |role, id| Identity { cluster: config.cluster.clone(), region: None, role, id };
    let manager = identity(Role::Manager, manager_id());
    let admin = identity(Role::Admin, ADMIN_ID.parse().expect("`admin` is a DNS label"));
    let issuing = Issuing { ca, url, lifetime: config.certificate_lifetime };
    OwnIdentities::open(data_dir, &issuing, &manager, &admin).context("make the manager's own identity")
}

/// More than the servers' own grace.
const DRAIN: Duration = Duration::from_secs(10);
