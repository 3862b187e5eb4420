//! The scheduler daemon: peers' gRPC streams around the planner.
//!
//! `link` lets peers in, `driver` owns the planner and speaks for it, `translate` is where
//! the wire's words become the planner's. What is decided is decided in
//! [`flotilla_scheduler_core`].

mod config;
mod driver;
mod link;
mod load;
mod metrics;
mod probe;
mod toll;
mod translate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flotilla_daemon::bind::{ReservedTcp, reserve_tcp};
use flotilla_daemon::identity::{ClientAuth, NodeIdentity, renew_loop};
use flotilla_daemon::life::{Ended, Life};
use flotilla_daemon::net::{advertised, daemon_name};
use flotilla_daemon::settings::Receiver;
use flotilla_daemon::shutdown::Tasks;
use flotilla_daemon::start::{Starting, TellsSystemd};
use flotilla_daemon::telemetry::{self, Admin, AdminServer, Readiness};
use flotilla_daemon::{rpc, settings};
use flotilla_proto::{PeerId, Role};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use config::{SchedulerConfig, ZoneConfig};

use crate::driver::{Driver, EVENTS_WAITING, Event};
use crate::link::{Link, MAX_MESSAGE};
use crate::metrics::Metrics;

/// Runs a scheduler until `shutdown` is cancelled. One that is removed from the topology waits
/// for a new join token.
///
/// # Errors
///
/// If it cannot enrol, or an address cannot be bound; the message names the key.
pub async fn run(config: SchedulerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        let started = shutdown.run_until_cancelled(Scheduler::start(&config)).await;
        let Some(scheduler) = started else { return Ok(()) };
        match scheduler?.serve(&config, shutdown.clone()).await? {
            Ended::Stopped => return Ok(()),
            Ended::Removed => {}
        }
    }
}

/// A scheduler that is enrolled and bound, and answers nobody yet.
struct Scheduler {
    starting: Starting,
    name: PeerId,
    identity: NodeIdentity,
    listener: ReservedTcp,
    admin: AdminServer,
    advertise: SocketAddr,
}

impl Scheduler {
    /// Binds every address and, the first time, enrols; what is missing outside is waited for.
    async fn start(config: &SchedulerConfig) -> anyhow::Result<Self> {
        config.validate()?;
        let name = daemon_name(config.name.as_ref())?;
        let (starting, admin) =
            Starting::with_admin(&config.admin, &config.metrics, TellsSystemd::WhenItWaits).await?;
        let listener = starting.until("listen", || reserve_tcp("listen", config.listen)).await?;
        let bound = listener.local_addr()?;
        let advertise = starting.until("advertise", || advertised(config.advertise, bound)).await?;
        let dir = config.data_dir.join("identity");
        let opened = || NodeIdentity::open(&dir, &name, &config.manager);
        let identity = starting.until_async("identity", opened).await?;
        anyhow::ensure!(
            identity.identity().role == Role::Scheduler,
            "{} is no scheduler",
            identity.identity()
        );
        Ok(Self { starting, name, identity, listener, admin, advertise })
    }

    /// Answers until `shutdown` is cancelled, or the manager says that this scheduler was removed.
    async fn serve(self, config: &SchedulerConfig, shutdown: CancellationToken) -> anyhow::Result<Ended> {
        let Self { starting, name, identity, listener, admin, advertise } = self;
        let readiness = starting.readiness().clone();
        let region = identity.identity().region.clone().context("a scheduler belongs to a region")?;
        let (settings, watch) = settings::watch(identity.clone(), &config.data_dir, advertise.to_string())?;

        let mut registry = telemetry::registry();
        let metrics = Metrics::register(&mut registry);
        let (events, waiting) = mpsc::channel(EVENTS_WAITING);
        let service = rpc::SchedulerServer::new(Link::new(region.clone(), events.clone()))
            .max_decoding_message_size(MAX_MESSAGE);
        let listener = listener.listen()?;

        let life = Life::new(shutdown);
        let (routes, ending) = (Routes::new(service), life.token().clone());
        let serve = rpc::serve(listener, &identity, ClientAuth::Required, routes, ending);
        let mut tasks = Tasks::new(life.token().clone());
        admin.complete(&mut tasks, Admin { metrics: Arc::new(registry), routes: axum::Router::new() });
        readiness.missing(SETTINGS, "no settings from the manager yet");
        life.follow(&mut tasks, watch, identity.clone(), config.manager.clone());
        tasks.spawn_until_shutdown("seeds", follow_seeds(settings, events, readiness));
        tasks.spawn_until_shutdown("renewal", renew_loop(identity));
        let driver = Driver::new(name.clone(), &config.zones, metrics);
        tasks.spawn("driver", driver.run(waiting, life.token().clone()));
        starting.done();
        tracing::info!(%name, %region, listen = %config.listen, %advertise, "scheduler ready");
        let served = serve.await;
        let ended = life.ended();
        life.token().cancel();
        served.context("serve gRPC")?;
        tasks.drain(DRAIN).await?;
        Ok(ended)
    }
}

/// Tells the driver of the configured seeds, those kept on disk first.
async fn follow_seeds(mut settings: Receiver, events: mpsc::Sender<Event>, readiness: Readiness) {
    loop {
        let current = settings.borrow_and_update().clone();
        if current.revision > 0 {
            readiness.met(SETTINGS);
        }
        let seeds = current.seeds.iter().map(|seed| seed.id.clone()).collect();
        if events.send(Event::SeedsConfigured(seeds)).await.is_err() || settings.changed().await.is_err() {
            return;
        }
    }
}

/// The name of a condition in `/readyz`.
const SETTINGS: &str = "settings";

/// How long the daemon's tasks have to end.
const DRAIN: Duration = Duration::from_secs(5);
