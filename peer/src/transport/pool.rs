//! Connections to other peers: dialled when needed, shared by all requests, whoever
//! dialled. When two peers dial each other at once, the one with the lower id wins.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use flotilla_daemon::identity::clock::{self, Judge};
use flotilla_daemon::identity::{NodeIdentity, RevokedKeys, peer_identity, peer_key};
use flotilla_proto::{Identity, KeyHash, PeerId, Role};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use quinn::{Connection, Endpoint, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::guests::Guests;

/// Every peer this one knows the address of, with the connection to it if there is one.
pub(super) struct Pool {
    pub(super) endpoint: Endpoint,
    pub(super) identity: Identity,
    pub(super) revoked: RevokedKeys,
    /// Those that dialled.
    pub(super) guests: Guests,
    peers: DashMap<PeerId, Arc<Peer>>,
    /// Connections that were dialled from here, for `serve` to answer requests on.
    dialled: mpsc::Sender<(Member, Connection)>,
    pub(super) to_serve: Mutex<Option<mpsc::Receiver<(Member, Connection)>>>,
    connections: Gauge<i64, AtomicI64>,
}

struct Peer {
    address: SocketAddr,
    seed: bool,
    /// Held while dialling, so that requests at the same time share one connection.
    link: Mutex<Option<Link>>,
}

/// Who is at the other end of a connection.
pub(super) struct Member {
    pub(super) identity: Identity,
    pub(super) key: KeyHash,
}

/// A connection to a peer.
pub(super) struct Reached {
    pub(super) connection: Connection,
    /// It stood before, so that its other end may be gone since.
    pub(super) is_warm: bool,
}

#[derive(Clone)]
struct Link {
    connection: Connection,
    used_at: Instant,
}

impl Pool {
    pub(super) fn new(endpoint: Endpoint, identity: &NodeIdentity, metrics: &mut Registry) -> Self {
        let connections = Gauge::default();
        metrics.register("flotilla_peer_connections", "Connections to other peers", connections.clone());
        let (dialled, to_serve) = mpsc::channel(DIALLED_WAITING);
        let to_serve = Mutex::new(Some(to_serve));
        Self {
            endpoint,
            identity: identity.identity().clone(),
            revoked: identity.revoked_keys().clone(),
            guests: Guests::default(),
            peers: DashMap::new(),
            dialled,
            to_serve,
            connections,
        }
    }

    pub(super) fn learn(&self, peer: PeerId, address: SocketAddr, seed: bool) {
        let known = self.peers.get(&peer).is_some_and(|known| known.address == address && known.seed == seed);
        if !known {
            self.peers.insert(peer, Arc::new(Peer { address, seed, link: Mutex::new(None) }));
        }
    }

    pub(super) fn is_seed(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|known| known.seed)
    }

    pub(super) fn connected_count(&self) -> usize {
        usize::try_from(self.connections.get()).unwrap_or(0)
    }

    /// The connection to a peer, dialled if there is none.
    pub(super) async fn connection(&self, id: &PeerId) -> Result<Connection, DialError> {
        Ok(self.reach(id).await?.connection)
    }

    /// The same, and whether it stood before.
    pub(super) async fn reach(&self, id: &PeerId) -> Result<Reached, DialError> {
        let peer =
            self.peers.get(id).map(|peer| peer.clone()).ok_or_else(|| DialError::Unknown(id.clone()))?;
        let mut link = peer.link.lock().await;
        if let Some(link) = link.as_mut().filter(|link| link.connection.close_reason().is_none()) {
            link.used_at = Instant::now();
            return Ok(Reached { connection: link.connection.clone(), is_warm: true });
        }
        let (member, connection) = self.dial(id, peer.address).await?;
        *link = Some(Link { connection: connection.clone(), used_at: Instant::now() });
        drop(link);
        // The receiver goes with the process.
        let _ = self.dialled.send((member, connection.clone())).await;
        self.close_idle();
        Ok(Reached { connection, is_warm: false })
    }

    async fn dial(&self, id: &PeerId, address: SocketAddr) -> Result<(Member, Connection), DialError> {
        let failed = |reason: String| DialError::Failed { peer: id.clone(), address, reason };
        let dial =
            self.endpoint.connect(address, &id.dns_name()).map_err(|error| failed(error.to_string()))?;
        let connection = timeout(DIAL_TIMEOUT, dial).await.map_err(|_| failed("no answer".into()))?;
        let connection = connection.map_err(|error| failed(explain(&error)))?;
        let member = self.admit(&connection).map_err(failed)?;
        Ok((member, connection))
    }

    /// Who is at the other end, if it may be there: a peer or seed of this region.
    pub(super) fn admit(&self, connection: &Connection) -> Result<Member, String> {
        let shown =
            connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let chain = shown.ok_or("no certificate")?;
        let identity = peer_identity(&chain).map_err(|error| error.to_string())?;
        let key = peer_key(&chain).map_err(|error| error.to_string())?;
        let admitted = matches!(identity.role, Role::Peer | Role::Seed)
            && identity.region == self.identity.region
            && identity.cluster == self.identity.cluster;
        if admitted {
            return Ok(Member { identity, key });
        }
        connection.close(NOT_ADMITTED, b"not a peer of this region");
        Err(format!("{identity} is no peer of this region"))
    }

    /// Keeps a connection that a peer dialled, unless ours stands and its dialler's id is lower.
    pub(super) async fn keep(&self, peer: &PeerId, connection: &Connection) {
        let Some(known) = self.peers.get(peer).map(|known| known.clone()) else { return };
        let mut link = known.link.lock().await;
        let stands = link.as_ref().is_some_and(|link| link.connection.close_reason().is_none());
        if !stands || *peer < self.identity.id {
            *link = Some(Link { connection: connection.clone(), used_at: Instant::now() });
        }
    }

    pub(super) fn opened(&self) {
        self.connections.inc();
    }

    pub(super) fn closed(&self) {
        self.connections.dec();
    }

    /// The connections that stand, but for those being dialled at this moment.
    fn links(&self) -> Vec<Link> {
        let peers: Vec<Arc<Peer>> = self.peers.iter().map(|peer| peer.clone()).collect();
        let link = |peer: Arc<Peer>| peer.link.try_lock().ok().and_then(|link| link.clone());
        let stands = |link: &Link| link.connection.close_reason().is_none();
        peers.into_iter().filter_map(link).filter(stands).collect()
    }

    /// Closes the connection that was used longest ago where there are too many. One with
    /// requests under way was used just now, and is far from last.
    fn close_idle(&self) {
        let links = self.links();
        if links.len() > MAX_CONNECTIONS {
            let oldest = links.into_iter().min_by_key(|link| link.used_at).expect("not empty");
            oldest.connection.close(IDLE, b"idle");
        }
    }
}

/// Why a handshake failed, with clocks named where they are the reason.
fn explain(error: &quinn::ConnectionError) -> String {
    let judge = match error {
        quinn::ConnectionError::ConnectionClosed(_) => Judge::OtherSide,
        _ => Judge::ThisMachine,
    };
    clock::explain_text(judge, &error.to_string())
}

/// The least path MTU of all connections, looked up at each scrape. A silent fall to 1200
/// is the only sign that a path loses large packets (`docs/design.md` §5).
#[derive(Debug)]
pub(super) struct PathMtu(pub(super) Weak<Pool>);

impl Collector for PathMtu {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(pool) = self.0.upgrade() else { return Ok(()) };
        let mtus = pool.links().into_iter().map(|link| link.connection.stats().path.current_mtu);
        let Some(least) = mtus.min() else { return Ok(()) };
        let gauge = ConstGauge::new(i64::from(least));
        let help = "Least path MTU of all connections to other peers";
        gauge.encode(encoder.encode_descriptor(
            "flotilla_peer_path_mtu_bytes",
            help,
            None,
            MetricType::Gauge,
        )?)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} peers)", self.peers.len())
    }
}

/// Connections kept at a time (docs/design.md §5); beyond, the one used longest ago is closed.
const MAX_CONNECTIONS: usize = 128;

/// Fresh connections that may wait to be answered on; beyond, whoever dialled waits.
const DIALLED_WAITING: usize = 64;

const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
const NOT_ADMITTED: VarInt = VarInt::from_u32(2);
const IDLE: VarInt = VarInt::from_u32(0);

/// Why there is no connection to a peer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DialError {
    #[error("the address of {0} is not known")]
    Unknown(PeerId),
    #[error("connect to {peer} at {address}: {reason}")]
    Failed { peer: PeerId, address: SocketAddr, reason: String },
}
