//! Pieces and forwarded requests between peers, over QUIC with mutual TLS.
//!
//! One connection per peer pair, whoever dialled (of two that dial each other at the same moment,
//! requests go over one, and the other idles); one bidirectional stream per request: a small
//! header, then raw bytes. `quic` sets the endpoint up, `congestion` paces it, `pool`
//! keeps connections, `guests` counts those that others dialled, `pacer` keeps to what the node may take of its link. `fetch` asks for pieces, `upload` sends them, `follow` tells and hears who
//! holds what, `call` asks a seed to speak to a registry,
//! or for a small blob, `serve` answers that; `small` sends such blobs.

mod call;
mod congestion;
mod fetch;
mod follow;
mod guests;
mod pacer;
mod pool;
mod quic;
mod runs;
mod segmenting;
mod serve;
mod small;
mod stream;
mod upload;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use flotilla_daemon::identity::NodeIdentity;
use flotilla_proto::PeerId;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use crate::TransportConfig;
use crate::body;

pub(crate) use call::{CallError, Delivered, Given, Offered, credential_to_wire};
pub(crate) use fetch::Received;
pub(crate) use pool::DialError;
pub(crate) use serve::Services;
pub(crate) use small::SMALL;
pub(crate) use stream::Incoming;

use pacer::Pacer;
use pool::{PathMtu, Pool};

/// A handle on the transport; clones share its connections.
#[derive(Clone)]
pub(crate) struct Transport {
    pool: Arc<Pool>,
    sending: Arc<Pacer>,
    receiving: Arc<Pacer>,
    /// Permits for answers that nobody reads for a while.
    unread: Arc<Semaphore>,
}

impl Transport {
    /// A transport on `socket`. It dials at once, and answers once [`Self::serve`] runs.
    ///
    /// # Errors
    ///
    /// If the socket cannot be driven.
    pub(crate) fn new(
        socket: UdpSocket,
        identity: &NodeIdentity,
        config: &TransportConfig,
        metrics: &mut Registry,
    ) -> std::io::Result<Self> {
        let endpoint = quic::endpoint(socket, identity, config.mtu)?;
        let pool = Arc::new(Pool::new(endpoint, identity, metrics));
        metrics.register_collector(Box::new(PathMtu(Arc::downgrade(&pool))));
        let [sending, receiving] = [config.send_bandwidth, config.receive_bandwidth]
            .map(|bandwidth| Arc::new(Pacer::new(bandwidth)));
        Ok(Self { pool, sending, receiving, unread: Arc::new(Semaphore::new(body::UNREAD)) })
    }

    /// Learns where a peer is, and whether it is a seed.
    pub(crate) fn learn(&self, peer: PeerId, address: SocketAddr, seed: bool) {
        self.pool.learn(peer, address, seed);
    }

    /// Makes sure of a connection to a peer.
    ///
    /// # Errors
    ///
    /// If its address is not known, or it does not answer there.
    pub(crate) async fn reach(&self, peer: &PeerId) -> Result<(), DialError> {
        self.pool.connection(peer).await.map(drop)
    }

    /// Whether the peer is known to be a seed.
    pub(crate) fn is_seed(&self, peer: &PeerId) -> bool {
        self.pool.is_seed(peer)
    }

    /// How many peers are connected.
    pub(crate) fn connected_count(&self) -> usize {
        self.pool.connected_count()
    }
}
