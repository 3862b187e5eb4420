//! The peer daemon, seed or not.
//!
//! A blob's way is one line: `door` (which client, granted what) → `grant` → `swarm` (the
//! driver of the peer's core) → `transport` (other peers) or `source` (a registry, seeds
//! only) → `store` → `door`. What is decided is decided in [`flotilla_peer_core`].

mod bare;
mod body;
mod config;
mod control;
mod delivering;
mod door;
mod egress;
mod grant;
mod http_wire;
mod metrics;
mod report;
mod resource;
mod seed;
mod seed_watch;
mod seldom;
pub mod source;
mod status;
pub mod store;
mod swarm;
mod transport;
pub mod via;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flotilla_daemon::bind::{ReservedTcp, bind_udp, reserve_tcp};
use flotilla_daemon::identity::{NodeIdentity, renew_loop};
use flotilla_daemon::life::{Ended, Life};
use flotilla_daemon::net::{advertised, daemon_name};
use flotilla_daemon::own_names::OwnNames;
use flotilla_daemon::settings::{self, Receiver, RegionSettings};
use flotilla_daemon::shutdown::Tasks;
use flotilla_daemon::start::{Starting, TellsSystemd};
use flotilla_daemon::telemetry::{self, Admin, AdminServer, Readiness};
use flotilla_proto::{PeerId, Role};
use tokio_util::sync::CancellationToken;

pub use config::{DoorConfig, InvalidPeerConfigError, Mtu, MtuError, PeerConfig, TransportConfig};

use crate::control::SchedulerLink;
use crate::door::{
    Answerer, Authorities, Bypasses, Clients, Door, DoorListeners, KeptTokens, Probes, Tunnels, Turns,
};
use crate::egress::Egress;
use crate::grant::{Confirmed, Manifests};
use crate::metrics::PieceBytes;
use crate::seed::Seed;
use crate::seed_watch::SeedWatch;
use crate::source::{OwnDaemon, Source};
use crate::status::StatusParts;
use crate::store::Store;
use crate::swarm::{Driver, DriverParts, Swarm};
use crate::transport::{Services, Transport};
use crate::via::Pseudonym;

/// Runs a peer until `shutdown` is cancelled. One that is removed from the topology waits for a
/// new join token.
///
/// # Errors
///
/// If it cannot enrol, open its store or bind an address; the message names what.
pub async fn run(config: PeerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        let Some(peer) = shutdown.run_until_cancelled(Peer::start(config.clone())).await else {
            return Ok(());
        };
        match peer?.serve(shutdown.clone()).await? {
            Ended::Stopped => return Ok(()),
            Ended::Removed => {}
        }
    }
}

/// A peer that is enrolled and bound, and answers nobody yet.
pub struct Peer {
    config: PeerConfig,
    starting: Starting,
    name: PeerId,
    identity: NodeIdentity,
    door: DoorListeners,
    admin: AdminServer,
    pieces: UdpSocket,
    /// Where other peers reach `pieces`.
    address: SocketAddr,
}

impl Peer {
    /// Binds every address and, the first time, enrols. What is missing outside of this machine's
    /// configuration is waited for; clients are refused meanwhile.
    ///
    /// # Errors
    ///
    /// If an address is taken or it cannot enrol; the message names what.
    pub async fn start(config: PeerConfig) -> anyhow::Result<Self> {
        config.validate()?;
        let name = daemon_name(config.name.as_ref())?;
        let (starting, admin) =
            Starting::with_admin(&config.admin, &config.metrics, TellsSystemd::WhenItWaits).await?;
        let sni =
            || config.door.sni_listen.map(|address| reserve_tcp("door.sni_listen", address)).transpose();
        let sni = starting.until("door", sni).await?;
        let door = || reserve_tcp("door.listen", config.door.listen);
        let door = starting.until("door", door).await?;
        let pieces = || bind_udp("transport.listen", config.transport.listen);
        let pieces = starting.until("transport", pieces).await?;
        let bound = pieces.local_addr()?;
        let address = || advertised(config.transport.advertise, bound);
        let address = starting.until("advertise", address).await?;
        let dir = config.data_dir.join("identity");
        let opened = || NodeIdentity::open(&dir, &name, &config.manager);
        let identity = starting.until_async("identity", opened).await?;
        let role = identity.identity().role;
        anyhow::ensure!(matches!(role, Role::Peer | Role::Seed), "{} is no peer", identity.identity());
        let sni = sni.map(ReservedTcp::listen).transpose()?;
        let door = DoorListeners { shared: door.listen()?, sni };
        Ok(Self { config, starting, name, identity, door, admin, pieces, address })
    }

    /// Where clients of this node connect.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn door_address(&self) -> std::io::Result<SocketAddr> {
        self.door.shared.local_addr()
    }

    /// Where clients of the door `sni` connect, if it is open.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn sni_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.door.sni.as_ref().map(tokio::net::TcpListener::local_addr).transpose()
    }

    /// Where health, status and metrics are.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        Ok(self.admin.address())
    }

    /// Where other peers reach this one.
    pub fn piece_address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is cancelled, or the manager says that this peer was removed.
    ///
    /// # Errors
    ///
    /// If its store cannot be opened or its parts do not end in time.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<Ended> {
        let Self { config, starting, name, identity, door: door_listeners, admin, pieces, address } = self;
        let readiness = starting.readiness().clone();
        let life = Life::new(shutdown);
        let shutdown = life.token().clone();
        let listeners = listeners(&door_listeners, &admin, address.ip())?;
        let (role, address) = (identity.identity().role, address.to_string());
        let door_address = door_listeners.shared.local_addr()?.to_string();

        let mut metrics = telemetry::registry();
        let (store, evicted) = Store::open(&config.data_dir.join("store"), &config.store, &mut metrics)?;
        let transport = Transport::new(pieces, &identity, &config.transport, &mut metrics)
            .context("open the piece port")?;
        let (settings, watch) = settings::watch(identity.clone(), &config.data_dir, address.clone())?;
        let pseudonym = Pseudonym::of_cluster(identity.ca());
        let own = OwnDaemon { pseudonym: pseudonym.clone(), listeners };
        let source = Source::new(config.source.clone(), own, &mut metrics)?;
        let seed = (role == Role::Seed)
            .then(|| Arc::new(Seed::new(source.clone(), store.clone(), settings.clone())));
        let watched = seed.is_some().then(|| report::watch_endpoints(identity.clone(), source.clone()));
        let (seeds, silence) =
            SeedWatch::new(name.clone(), transport.clone(), settings.clone(), readiness.clone());
        let egress = Egress::new(name.clone(), transport.clone(), settings.clone(), seed.clone(), silence);
        let egress = Arc::new(egress);
        let (swarm, events) = Swarm::new(store.clone());
        let piece_bytes = PieceBytes::register(&mut metrics);
        let services = Services::new(&transport, store.clone(), swarm.clone(), seed.clone(), &mut metrics);
        let (services, disk) = (Arc::new(services), store.clone().watch_disk(readiness.clone()));

        let driver = Driver::new(DriverParts {
            swarm: swarm.clone(),
            store: store.clone(),
            transport: transport.clone(),
            egress: egress.clone(),
            seed,
            piece_bytes: piece_bytes.clone(),
            readiness: readiness.clone(),
        });
        let door = Arc::new(Door {
            clients: Clients::register(&mut metrics),
            answerer: Arc::new(Answerer {
                store,
                swarm: swarm.clone(),
                egress,
                settings: settings.clone(),
                grants: Arc::default(),
                confirmed: Confirmed::new(),
                served: Confirmed::new(),
                manifests: Manifests::default(),
                kept_tokens: KeptTokens::default(),
                piece_bytes,
                bypasses: Bypasses::register(&mut metrics),
                asking: Turns::default(),
                probes: Probes::default(),
            }),
            authorities: Authorities::open(&config.data_dir),
            settings: settings.clone(),
            pseudonym,
            default_upstream: config.door.default_upstream.clone(),
            tunnels: Tunnels::new(config.door.listen, config.door.tunnels.clone()),
            proxy_users: config.door.proxy_users.clone(),
            names: OwnNames::new("door.names", &config.door.names),
            address: door_address.clone(),
        });
        let link = SchedulerLink {
            identity: identity.clone(),
            settings: settings.clone(),
            address: address.clone(),
            zone: config.zone.clone(),
            swarm: swarm.clone(),
        };
        let status = status::routes(StatusParts {
            identity: identity.identity().clone(),
            door: door_address.clone(),
            address: address.clone(),
            swarm,
            transport: transport.clone(),
            settings: settings.clone(),
            readiness: readiness.clone(),
        });

        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn_until_shutdown("disk", disk);
        admin.complete(&mut tasks, Admin { metrics: Arc::new(metrics), routes: status });
        life.follow(&mut tasks, watch, identity.clone(), config.manager);
        tasks.spawn_until_shutdown("seeds", seeds.run());
        tasks.spawn_until_shutdown("renewal", renew_loop(identity));
        if let Some(watched) = watched {
            tasks.spawn_until_shutdown("endpoints", watched);
        }
        tasks.spawn_until_shutdown("registries", follow_settings(settings, source, door.clone(), readiness));
        tasks.spawn_until_shutdown("scheduler", link.run());
        tasks.spawn("driver", driver.run(events, evicted, shutdown.clone()));
        tasks.spawn("transport", transport.serve(services, shutdown.clone()));
        tasks.spawn("door", door.serve(door_listeners, shutdown.clone()));
        starting.done();
        tracing::info!(%name, %role, door = door_address, pieces = address, "peer started");
        shutdown.cancelled().await;
        let ended = life.ended();
        tasks.drain(DRAIN).await?;
        Ok(ended)
    }
}

/// Where clients of this daemon's own connect. What listens at every address is reached at `reached`, too.
fn listeners(door: &DoorListeners, admin: &AdminServer, reached: IpAddr) -> std::io::Result<Vec<SocketAddr>> {
    let mut listeners: Vec<SocketAddr> = admin.addresses().collect();
    for listener in std::iter::once(&door.shared).chain(&door.sni) {
        listeners.push(listener.local_addr()?);
    }
    let everywhere: Vec<SocketAddr> =
        listeners.iter().filter(|address| address.ip().is_unspecified()).copied().collect();
    listeners.extend(everywhere.iter().map(|address| SocketAddr::new(reached, address.port())));
    Ok(listeners)
}

/// Hands every change of the settings to the source and the doors.
async fn follow_settings(mut settings: Receiver, source: Source, door: Arc<Door>, readiness: Readiness) {
    readiness.missing(SETTINGS, "no settings from the manager yet");
    let mut before: Option<Arc<RegionSettings>> = None;
    loop {
        let current = settings.borrow_and_update().clone();
        source.set_upstreams(&current.registries);
        // Who only starts asks when its turn comes, lest a region that starts asks all at once.
        let are_changed =
            before.is_some_and(|before| before.revision > 0 && before.registries != current.registries);
        source.settings_are(current.revision, are_changed);
        if let Err(error) = door.authorities.prepare(current.registries.iter().map(|upstream| &upstream.host))
        {
            tracing::error!(%error, "prepare this node's CAs");
        }
        if current.revision > 0 {
            readiness.met(SETTINGS);
        }
        before = Some(current);
        if settings.changed().await.is_err() {
            return;
        }
    }
}

/// The condition in `/readyz`.
const SETTINGS: &str = "settings";

/// How long the daemon's tasks have to end.
const DRAIN: Duration = Duration::from_secs(5);
