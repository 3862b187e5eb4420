//! The gRPC server of a daemon.
//!
//! tonic's own TLS has one certificate for its life. Here the handshake is ours, so that a
//! renewed certificate is used at the next one and the caller's identity is read once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::{Caller, KEEP_ALIVE};
use crate::identity::peer_identity;

/// Serves `routes` until `shutdown`, then lets calls end for 5 s. A service that streams
/// should watch the same token.
///
/// A client has 10 s for its handshake; 256 shake hands at once, more wait in the
/// listener's queue; beyond 16384 connections a further one is closed at once.
///
/// # Errors
///
/// If HTTP/2 cannot be served at all; what goes wrong with one client ends with it.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    routes: Routes,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (ready, incoming) = mpsc::channel(READY_CONNECTIONS);
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
    let accept = Accept { listener, tls: TlsAcceptor::from(tls), ready };
    let serve = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        served = serve => served,
        () = accept_until(accept, &shutdown, overdue) => Ok(()),
    }
}

/// Accepts until `shutdown`, closes the listener, and ends with `overdue`.
async fn accept_until(accept: Accept, shutdown: &CancellationToken, overdue: impl Future<Output = ()>) {
    let _accepting = shutdown.run_until_cancelled(accept.run()).await;
    overdue.await;
}

struct Accept {
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<Connection>,
}

impl Accept {
    async fn run(self) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut handshakes = JoinSet::new();
        loop {
            let tcp = tokio::select! {
                Some(_) = handshakes.join_next() => continue,
                accepted = self.listener.accept(), if handshakes.len() < MAX_HANDSHAKES => accepted,
            };
            let tcp = match tcp {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    // Out of descriptors, most likely: trying at once would only spin.
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                tracing::warn!(limit = MAX_CONNECTIONS, "connection closed: too many are open");
                continue;
            };
            let (tls, ready) = (self.tls.clone(), self.ready.clone());
            handshakes.spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tls, tcp, permit)).await;
                match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(connection) => drop(ready.send(connection).await),
                    Err(error) => tracing::debug!(%error, "handshake failed"),
                }
            });
        }
    }
}

async fn handshake(tls: TlsAcceptor, tcp: TcpStream, permit: OwnedSemaphorePermit) -> io::Result<Connection> {
    let address = tcp.peer_addr()?;
    tcp.set_nodelay(true)?;
    let stream = tls.accept(tcp).await?;
    let identity = match stream.get_ref().1.peer_certificates() {
        Some(certificates) => Some(peer_identity(certificates).map_err(io::Error::other)?),
        None => None,
    };
    Ok(Connection { stream, caller: Caller { identity, address }, _permit: permit })
}

/// A connection whose handshake is over.
struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HANDSHAKES: usize = 256;
/// A large region's peers, each with one connection, and room to spare.
const MAX_CONNECTIONS: usize = 16 * 1024;
const MAX_CALLS_PER_CONNECTION: u32 = 128;
/// Between the handshake and HTTP/2; a full queue holds up handshakes.
const READY_CONNECTIONS: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
