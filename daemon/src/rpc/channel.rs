//! Channels to another daemon: connected when used, connected again when lost.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use flotilla_proto::PeerId;
use futures_util::FutureExt as _;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::guarded::{Guarded, MustEnd};
use super::{ALPN_GRPC, KEEP_ALIVE};
use crate::identity::{NodeIdentity, RevokedKeys, clock, manager_id, peer_key};

/// A channel to the daemon `server` at `address` (`host:port` or a socket address), whose
/// certificate must be `server`'s. It connects at its first call and after every loss; a
/// call that cannot connect within 5 s fails with `Unavailable`, for [`reason`] to explain.
pub fn channel(identity: &NodeIdentity, address: impl fmt::Display, server: &PeerId) -> Channel {
    let tls = identity.client_config(&[ALPN_GRPC]);
    connected_lazily(tls, identity.revoked_keys().clone(), &[&address.to_string()], server)
}

/// A channel to the manager that the identity is from, wherever it is found.
pub fn manager_channel(identity: &NodeIdentity) -> Channel {
    channel_over(identity.client_config(&[ALPN_GRPC]), &identity.manager_addresses(), &manager_id())
}

/// As [`channel`], over a TLS configuration of the caller's, such as one for the first
/// contact, without a certificate. Each connection is tried at every one of `addresses`, the
/// one that was right last time first; they share the 5 s.
pub fn channel_over(tls: Arc<ClientConfig>, addresses: &[&str], server: &PeerId) -> Channel {
    connected_lazily(tls, RevokedKeys::default(), addresses, server)
}

fn connected_lazily(
    tls: Arc<ClientConfig>,
    revoked: RevokedKeys,
    addresses: &[&str],
    server: &PeerId,
) -> Channel {
    let dns_name = server.dns_name();
    let connector = Connector {
        addresses: addresses.iter().map(|address| Arc::from(*address)).collect(),
        last_good: Arc::default(),
        server_name: ServerName::try_from(dns_name.clone()).expect("an id is a DNS label"),
        tls: TlsConnector::from(tls),
        revoked,
    };
    // `http` because the connector speaks TLS and tonic must not add its own.
    Endpoint::from_shared(format!("http://{dns_name}"))
        .expect("an id is a DNS label")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// What stands behind a failed call, for people: the server's words if it answered, else
/// the innermost cause ("connection refused") with the address.
pub fn reason(status: &Status) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if let Some(failed) = error.downcast_ref::<ConnectError>() {
            return failed.to_string();
        }
        match error.source() {
            Some(inner) => cause = Some(inner),
            None => return innermost(error),
        }
    }
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<io::Error>() {
        // A process that is killed closes its connections in this way. The TLS library adds a link to its manual.
        Some(error) if error.to_string().contains("close_notify") => "the connection was lost".to_owned(),
        Some(error) => clock::explain(error),
        None => error.to_string(),
    }
}

struct Connector {
    addresses: Arc<[Arc<str>]>,
    /// Where of `addresses` the last connection stands.
    last_good: Arc<AtomicUsize>,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    revoked: RevokedKeys,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (addresses, last_good) = (self.addresses.clone(), self.last_good.clone());
        let (server_name, tls, revoked) = (self.server_name.clone(), self.tls.clone(), self.revoked.clone());
        Box::pin(async move {
            let count = addresses.len();
            let limit = CONNECT_TIMEOUT / u32::try_from(count).unwrap_or(u32::MAX);
            let first = last_good.load(Ordering::Relaxed);
            let mut failures = Vec::new();
            for index in (0..count).map(|offset| (first + offset) % count) {
                let address = &addresses[index];
                let connected = connect(address, server_name.clone(), tls.clone());
                let connected = tokio::time::timeout(limit, connected).await;
                match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => {
                        last_good.store(index, Ordering::Relaxed);
                        return Ok(TokioIo::new(guarded(stream, &revoked)));
                    }
                    Err(source) => failures.push(Failure { address: address.clone(), source }),
                }
            }
            Err(ConnectError { failures })
        })
    }
}

async fn connect(
    address: &str,
    server_name: ServerName<'static>,
    tls: TlsConnector,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    tls.connect(server_name, tcp).await
}

/// A connection that ends when the key at its other end is revoked.
type Connection = Guarded<TlsStream<TcpStream>, ()>;

fn guarded(stream: TlsStream<TcpStream>, revoked: &RevokedKeys) -> Connection {
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let must_end: MustEnd = match peer_key(shown) {
        Ok(key) => Box::pin(revoked.until_revoked(key).map(|()| "the other side's key was revoked")),
        Err(_) => Box::pin(std::future::ready("the other side's key cannot be read")),
    };
    Guarded::new(stream, must_end, ())
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection did not come to be: what each address said.
#[derive(Debug)]
struct ConnectError {
    failures: Vec<Failure>,
}

#[derive(Debug)]
struct Failure {
    address: Arc<str>,
    source: io::Error,
}

impl Error for ConnectError {}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Failure { address, source }) in self.failures.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}connect to {address}: {}", clock::explain(source))?;
        }
        Ok(())
    }
}
