//! The QUIC endpoint: sockets, windows and congestion control as measured for links inside
//! a region (the recipe and its figures: `docs/design.md` §5).

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::identity::{ClientAuth, NodeIdentity};
use flotilla_proto::ALPN_PIECES;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    Runtime as _, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::SockRef;

use super::congestion::Capped;
use super::segmenting::Segmenting;
use crate::Mtu;

/// An endpoint on `socket` that accepts, and dials with, the daemon's identity.
pub(super) fn endpoint(socket: UdpSocket, identity: &NodeIdentity, mtu: Mtu) -> io::Result<Endpoint> {
    enlarge_buffers(&socket);
    let transport = Arc::new(transport_config(mtu));
    let tls = identity.server_config(&[ALPN_PIECES], ClientAuth::Required);
    let tls = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(transport.clone());
    let tls = identity.client_config(&[ALPN_PIECES]);
    let tls = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut client = ClientConfig::new(Arc::new(tls));
    client.transport_config(transport);
    let runtime = Arc::new(TokioRuntime);
    let socket = Arc::new(Segmenting::new(runtime.wrap_udp_socket(socket)?, mtu));
    let mut config = EndpointConfig::new(Arc::new(ResetKey(identity.secret(RESETS))));
    let [a, b, c, d, e, f, g, h, ..] = identity.secret(CONNECTION_IDS);
    let ids = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    // One for each that asks over what it takes for a connection; it is smaller than the question.
    config.min_reset_interval(Duration::from_millis(1));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    // What the other side may send; 1472 unless said.
    config.max_udp_payload_size(mtu.datagram_len()).map_err(io::Error::other)?;
    let mut endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// Makes the tokens by which a peer that was started again tells others at once that it knows nothing of the
/// connections that they dialled (RFC 9000 §10.3): they must be the same as before. Of one that it dialled itself,
/// only silence tells: a server has no token for its client's first connection id.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Takes the same time whatever differs.
        if blake3::keyed_hash(&self.0, data) == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

fn transport_config(mtu: Mtu) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu.datagram_len());
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10)).max_ack_delay(Some(Duration::from_millis(5)));
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(Capped::new(INITIAL_WINDOW)))
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acks))
        .initial_rtt(Duration::from_millis(5))
        .stream_receive_window(VarInt::from_u32(8 << 20))
        .receive_window(VarInt::from_u32(64 << 20))
        .send_window(32 << 20)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MILLIS))));
    config
}

/// The default of 212 KB loses packets whenever two parents send at once. Privileged
/// daemons may pass the system's limit; for the others a warning names it.
fn enlarge_buffers(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    // The sizes that count are read back below.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    let granted = socket.recv_buffer_size().unwrap_or(0);
    if granted < SOCKET_BUFFER {
        tracing::warn!(
            granted,
            wanted = SOCKET_BUFFER,
            "UDP receive buffer is small: raise net.core.rmem_max"
        );
    }
}

/// Contexts of derived secrets; a change makes the next restart a silent one.
const RESETS: &str = "flotilla 2026-11-29 QUIC stateless reset tokens";
const CONNECTION_IDS: &str = "flotilla 2026-11-29 QUIC connection ids";

/// Bytes. The kernel doubles what is asked for.
const SOCKET_BUFFER: usize = 4 << 20;

/// Bytes in flight before the first acknowledgement: more would burst into shallow switches.
const INITIAL_WINDOW: u64 = 64 << 10;

/// A peer that died without a word is noticed within [`IDLE_MILLIS`].
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const IDLE_MILLIS: u32 = 6_000;

/// Requests one peer may have open here at a time.
const STREAMS: u32 = 256;
