//! The gRPC server of a daemon.
//!
//! tonic's own TLS has one certificate for its life. Here the handshake is ours, so that a
//! renewed certificate is used at the next one and the caller's identity is read once.

use std::io;
use std::net::SocketAddr;
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
use crate::crowd::{Crowd, Seat};
use crate::identity::peer_identity;

/// Serves `routes` until `shutdown`, then lets calls end for 5 s. A service that streams
/// should watch the same token.
///
/// A client has 5 s for its handshake. Of those that shake hands, and of those that have no certificate, nobody
/// waits for another, and nobody keeps another out ([`Crowd`]); beyond 16384 connections with a certificate a
/// further one is closed at once.
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
        let (knocking, strangers) = (Crowd::new(KNOCKING_TIME), Crowd::new(STRANGERS_TIME));
        let mut handshakes = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                Some(_) = handshakes.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: trying at once would only spin.
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let seat = knocking.enter(address.ip());
            let room = Room { permits: permits.clone(), strangers: strangers.clone() };
            let (tls, ready) = (self.tls.clone(), self.ready.clone());
            handshakes.spawn(async move {
                let shaken = tokio::select! {
                    shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tls, tcp, &room)) => shaken,
                    () = seat.turned_away() => Ok(Err(io::Error::other("others knock, too"))),
                };
                drop(seat);
                match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(connection) => drop(ready.send(connection).await),
                    Err(error) => tracing::debug!(%address, %error, "handshake failed"),
                }
            });
        }
    }
}

/// Where connections have their place once their handshake is over.
struct Room {
    permits: Arc<Semaphore>,
    strangers: Crowd,
}

/// A connection's place; dropped, there is room for another.
enum Place {
    Known {
        _permit: OwnedSemaphorePermit,
    },
    /// It has no certificate, and may be turned away.
    Stranger {
        turned_away: Pin<Box<dyn Future<Output = ()> + Send>>,
        _seat: Seat,
    },
}

impl Room {
    fn place(&self, address: SocketAddr, is_known: bool) -> io::Result<Place> {
        if !is_known {
            let seat = self.strangers.enter(address.ip());
            return Ok(Place::Stranger { turned_away: Box::pin(seat.turned_away()), _seat: seat });
        }
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            tracing::warn!(limit = MAX_CONNECTIONS, "connection closed: too many are open");
            io::Error::other("too many connections are open")
        })?;
        Ok(Place::Known { _permit: permit })
    }
}

async fn handshake(tls: TlsAcceptor, tcp: TcpStream, room: &Room) -> io::Result<Connection> {
    let address = tcp.peer_addr()?;
    tcp.set_nodelay(true)?;
    let stream = tls.accept(tcp).await?;
    let identity = match stream.get_ref().1.peer_certificates() {
        Some(certificates) => Some(peer_identity(certificates).map_err(io::Error::other)?),
        None => None,
    };
    let place = room.place(address, identity.is_some())?;
    Ok(Connection { stream, caller: Caller { identity, address }, place })
}

/// A connection whose handshake is over.
struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    place: Place,
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
        if let Place::Stranger { turned_away, .. } = &mut self.place
            && turned_away.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::other("others wait that have no certificate either")));
        }
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

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A handshake takes some round trips.
const KNOCKING_TIME: Duration = Duration::from_secs(1);
/// Joining takes a few calls; a manager may be busy.
const STRANGERS_TIME: Duration = Duration::from_secs(10);
/// A large region's peers, each with one connection, and room to spare.
const MAX_CONNECTIONS: usize = 16 * 1024;
const MAX_CALLS_PER_CONNECTION: u32 = 128;
/// Between the handshake and HTTP/2.
const READY_CONNECTIONS: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::identity::ClientAuth;
    use crate::identity::testing::TestCa;
    use crate::rpc::ALPN_GRPC;

    /// As an attacker does who has no certificate, and one address.
    #[tokio::test]
    async fn silent_strangers_keep_no_enrolled_caller_out() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
        let identity = ca.identity(&dir.path().join("s"), "flotilla://prod/eu/scheduler/s-0");
        let caller = ca.identity(&dir.path().join("p"), "flotilla://prod/eu/peer/p-0");
        let tls = identity.server_config(&[ALPN_GRPC], ClientAuth::Required);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, tls, Routes::default(), shutdown.clone()));
        let mut silent = Vec::new();
        for _ in 0..Crowd::MANY + 64 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let connector = tokio_rustls::TlsConnector::from(caller.client_config(&[ALPN_GRPC]));
        let name = rustls::pki_types::ServerName::try_from("s-0.flotilla").unwrap();
        let shaken = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            connector.connect(name, tcp).await.unwrap()
        };
        tokio::time::timeout(Duration::from_secs(2), shaken).await.expect("it is let in at once");
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_shake_hands_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let identity = TestCa::new().identity(dir.path(), "flotilla://prod/eu/scheduler/s-0");
        let tls = identity.server_config(&[ALPN_GRPC], ClientAuth::Required);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, tls, Routes::default(), shutdown.clone()));

        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
