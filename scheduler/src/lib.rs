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
mod translate;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flotilla_daemon::bind::bind_tcp;
use flotilla_daemon::identity::{ClientAuth, NodeIdentity, renew_loop};
use flotilla_daemon::net::{advertised, daemon_name};
use flotilla_daemon::settings::Receiver;
use flotilla_daemon::shutdown::Tasks;
use flotilla_daemon::telemetry::{self, Admin, AdminListeners, Readiness};
use flotilla_daemon::{rpc, settings};
use flotilla_proto::Role;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use config::{SchedulerConfig, ZoneConfig};

use crate::driver::{Driver, EVENTS_WAITING, Event};
use crate::link::{Link, MAX_MESSAGE};
use crate::metrics::Metrics;

/// Runs a scheduler until `shutdown` is cancelled.
///
/// # Errors
///
/// If it cannot enrol, or an address cannot be bound; the message names the key.
pub async fn run(config: SchedulerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let name = daemon_name(config.name.as_ref())?;
    let listener = bind_tcp("listen", config.listen).await?;
    let admin_listeners = AdminListeners::bind(&config.admin, &config.metrics).await?;
    let advertise =
        advertised(config.advertise, listener.local_addr()?).context("find the address to advertise")?;
    let identity = NodeIdentity::open(&config.data_dir.join("identity"), &name, &config.manager).await?;
    anyhow::ensure!(identity.identity().role == Role::Scheduler, "{} is no scheduler", identity.identity());
    let region = identity.identity().region.clone().context("a scheduler belongs to a region")?;
    let (settings, watch) = settings::watch(identity.clone(), &config.data_dir, advertise.to_string())?;

    let mut registry = telemetry::registry();
    let metrics = Metrics::register(&mut registry);
    let (events, waiting) = mpsc::channel(EVENTS_WAITING);
    let service = rpc::SchedulerServer::new(Link::new(region.clone(), events.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let tls = identity.server_config(&[rpc::ALPN_GRPC], ClientAuth::Required);

    let mut tasks = Tasks::new(shutdown.clone());
    let admin =
        Admin { metrics: Arc::new(registry), readiness: Readiness::new(), routes: axum::Router::new() };
    admin_listeners.serve(&mut tasks, admin);
    tasks.spawn_until_shutdown("settings", watch);
    tasks.spawn_until_shutdown("seeds", follow_seeds(settings, events));
    tasks.spawn_until_shutdown("renewal", renew_loop(identity));
    tasks.spawn("driver", Driver::new(name.clone(), &config.zones, metrics).run(waiting, shutdown.clone()));
    tracing::info!(%name, %region, listen = %config.listen, %advertise, "scheduler ready");
    rpc::serve(listener, tls, Routes::new(service), shutdown.clone()).await.context("serve gRPC")?;
    shutdown.cancel();
    Ok(tasks.drain(DRAIN).await?)
}

/// Tells the driver of the configured seeds, those kept on disk first.
async fn follow_seeds(mut settings: Receiver, events: mpsc::Sender<Event>) {
    loop {
        let seeds = settings.borrow_and_update().seeds.iter().map(|seed| seed.id.clone()).collect();
        if events.send(Event::SeedsConfigured(seeds)).await.is_err() || settings.changed().await.is_err() {
            return;
        }
    }
}

/// How long the daemon's tasks have to end.
const DRAIN: Duration = Duration::from_secs(5);
