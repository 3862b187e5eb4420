//! The daemon: builds the parts, says where it listens, runs them, ends them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flotilla_daemon::bind::reserve_tcp;
use flotilla_daemon::files::create_private_dir;
use flotilla_daemon::identity::{ClientAuth, ManagerUrl, manager_id};
use flotilla_daemon::rpc;
use flotilla_daemon::shutdown::Tasks;
use flotilla_daemon::start::{MayPass, Starting, TellsSystemd, io_may_pass};
use flotilla_daemon::telemetry::{self, Admin, AdminServer, Readiness};
use flotilla_proto::{Identity, Role};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{EnrolmentMetrics, Services};
use crate::config::Config;
use crate::endpoints::EndpointBook;
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
    let started = shutdown.run_until_cancelled(Manager::start(&config)).await;
    let Some(manager) = started else { return Ok(()) };
    manager?.serve(shutdown).await
}

/// A manager that listens and does not answer yet.
pub struct Manager {
    starting: Starting,
    listener: TcpListener,
    admin: AdminServer,
    own: OwnIdentities,
    ca: Arc<Ca>,
    topology: Topology,
    url: ManagerUrl,
    certificate_lifetime: Duration,
    enrolment: EnrolmentMetrics,
    metrics: Registry,
}

impl Manager {
    /// Opens the database and the CA, both made at the first start, and binds. An address or a
    /// disk that is not there yet is waited for.
    ///
    /// # Errors
    ///
    /// Names the key, the file or the address that is in the way.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        config.validate()?;
        let readiness = Readiness::new();
        let starting = Starting::new(readiness.clone(), TellsSystemd::WhenItWorks);
        // First, so that a second manager on this directory stops before it touches it.
        let listener = starting.until("listen", || reserve_tcp("listen", config.listen)).await?;
        let admin = || AdminServer::start(&config.admin, readiness.clone());
        let mut admin = starting.until("admin", admin).await?;
        starting.until("metrics", || admin.bind_metrics(&config.metrics)).await?;
        let data_dir = &config.data_dir;
        let made = || {
            create_private_dir(data_dir).map_err(|source| DataDirError { data_dir: data_dir.clone(), source })
        };
        starting.until("data_dir", made).await?;
        let url = config.manager_url(listener.local_addr()?)?;
        let opened = || Store::open(data_dir, &config.cluster);
        let store = starting.until_async("database", opened).await?;
        let ca = Arc::new(Ca::open(data_dir, &config.cluster)?);
        let own = own_identities(data_dir, &ca, &url, config)?;
        let mut metrics = telemetry::registry();
        let watchers = Watchers::new(&mut metrics);
        let enrolment = EnrolmentMetrics::register(&mut metrics);
        let topology = Topology::new(config.cluster.clone(), store, watchers);
        let certificate_lifetime = config.certificate_lifetime;
        Ok(Self {
            starting,
            // Not before all is there: who connects meanwhile is refused at once, and tries again.
            listener: listener.listen()?,
            admin,
            own,
            ca,
            topology,
            url,
            certificate_lifetime,
            enrolment,
            metrics,
        })
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
        Ok(self.admin.address())
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
        // It learns of no revoked keys: a daemon that was removed must be told so, which a handshake cannot do.
        let identity = self.own.manager.clone();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks
            .spawn_until_shutdown("renewal", self.own.renew_loop(self.ca.clone(), self.certificate_lifetime));
        let services = Services {
            topology: self.topology,
            ca: self.ca,
            url: self.url,
            certificate_lifetime: self.certificate_lifetime,
            metrics: self.enrolment,
            endpoints: EndpointBook::default(),
            shutdown: shutdown.clone(),
        };
        let admin = Admin { metrics: Arc::new(self.metrics), routes: axum::Router::new() };
        let grpc =
            rpc::serve(self.listener, &identity, ClientAuth::Optional, services.routes(), shutdown.clone());
        tasks.spawn_fallible("grpc", grpc);
        self.admin.complete(&mut tasks, admin);
        self.starting.done();
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

/// The directory of a manager's state cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("create data_dir {}: {source}", data_dir.display())]
struct DataDirError {
    data_dir: PathBuf,
    source: std::io::Error,
}

impl MayPass for DataDirError {
    fn may_pass(&self) -> bool {
        io_may_pass(&self.source)
    }
}

/// More than the servers' own grace.
const DRAIN: Duration = Duration::from_secs(10);
