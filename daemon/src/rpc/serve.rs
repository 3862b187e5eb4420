//! The gRPC server of a daemon.
//!
//! tonic's own TLS has one certificate for its life. Here the handshake is ours, so that a
//! renewed certificate is used at the next one and the caller's identity is read once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::KeyHash;
use futures_util::{FutureExt as _, StreamExt as _};
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

use super::guarded::{Guarded, MustEnd};
use super::{ALPN_GRPC, Caller, KEEP_ALIVE};
use crate::crowd::{Crowd, Seat};
use crate::identity::{ClientAuth, NodeIdentity, RevokedKeys, peer_identity, peer_key};

/// Serves `routes` until `shutdown`, then lets calls end for 5 s. A service that streams
/// should watch the same token.
///
/// A client has 5 s for its handshake. Of those that shake hands, and of those that have no certificate, nobody
/// waits for another, and nobody keeps another out ([`Crowd`]); beyond 16384 connections with a certificate a
/// further one is closed at once. Those of a key that `identity` learns to be revoked are closed, with their calls.
///
/// # Errors
///
/// If HTTP/2 cannot be served at all; what goes wrong with one client ends with it.
pub fn serve(
    listener: TcpListener,
    identity: &NodeIdentity,
    client_auth: ClientAuth,
    routes: Routes,
    shutdown: CancellationToken,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<> {
    let tls = TlsAcceptor::from(identity.server_config(&[ALPN_GRPC], client_auth));
    let (ready, incoming) = mpsc::channel(READY_CONNECTIONS);
    let accept = Accept { listener, tls, revoked: identity.revoked_keys().clone(), ready };
    serve_accepted(accept, incoming, routes, shutdown)
}

async fn serve_accepted(
    accept: Accept,
    incoming: mpsc::Receiver<Connection>,
    routes: Routes,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
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
    revoked: RevokedKeys,
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
            let (permits, strangers) = (permits.clone(), strangers.clone());
            let room = Room { permits, strangers, revoked: self.revoked.clone() };
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
    revoked: RevokedKeys,
}

/// A connection's place; dropped, there is room for another.
enum Place {
    Known { _permit: OwnedSemaphorePermit },
    Stranger { _seat: Seat },
}

impl Room {
    /// A place, and when it must be left: a stranger may be turned away, a key revoked.
    fn place(&self, address: SocketAddr, key: Option<KeyHash>) -> io::Result<(Place, MustEnd)> {
        let Some(key) = key else {
            let seat = self.strangers.enter(address.ip());
            let reason = "others wait that have no certificate either";
            let must_end = seat.turned_away().map(move |()| reason);
            return Ok((Place::Stranger { _seat: seat }, Box::pin(must_end)));
        };
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            tracing::warn!(limit = MAX_CONNECTIONS, "connection closed: too many are open");
            io::Error::other("too many connections are open")
        })?;
        let must_end = self.revoked.until_revoked(key).map(|()| "its key was revoked");
        Ok((Place::Known { _permit: permit }, Box::pin(must_end)))
    }
}

async fn handshake(tls: TlsAcceptor, tcp: TcpStream, room: &Room) -> io::Result<Connection> {
    let address = tcp.peer_addr()?;
    tcp.set_nodelay(true)?;
    let stream = tls.accept(tcp).await?;
    let (identity, key) = match stream.get_ref().1.peer_certificates() {
        Some(shown) => {
            let identity = peer_identity(shown).map_err(io::Error::other)?;
            (Some(identity), Some(peer_key(shown).map_err(io::Error::other)?))
        }
        None => (None, None),
    };
    let (place, must_end) = room.place(address, key)?;
    let guest = Guest { caller: Caller { identity, key, address }, _place: place };
    Ok(Guarded::new(stream, must_end, guest))
}

/// A connection whose handshake is over.
type Connection = Guarded<TlsStream<TcpStream>, Guest>;

struct Guest {
    caller: Caller,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.guest.caller.clone()
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
    use flotilla_proto::wire::scheduler::{FromPeer, ToPeer};
    use tokio::io::AsyncReadExt as _;
    use tonic::{Request, Response, Status, Streaming};

    use super::super::{Scheduler, SchedulerClient, SchedulerServer, channel};
    use super::*;
    use crate::identity::testing::TestCa;

    /// As an attacker does who has no certificate, and one address.
    #[tokio::test]
    async fn silent_strangers_keep_no_enrolled_caller_out() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
        let identity = ca.identity(&dir.path().join("s"), "flotilla://prod/eu/scheduler/s-0");
        let caller = ca.identity(&dir.path().join("p"), "flotilla://prod/eu/peer/p-0");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = serve(listener, &identity, ClientAuth::Required, Routes::default(), shutdown.clone());
        let server = tokio::spawn(server);
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

    #[tokio::test]
    async fn a_connection_ends_on_either_side_when_the_other_side_s_key_is_revoked() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
        let server = ca.identity(&dir.path().join("s"), "flotilla://prod/eu/scheduler/s-0");
        let client = ca.identity(&dir.path().join("p"), "flotilla://prod/eu/peer/p-0");
        for (side, key) in [(&server, client.key()), (&client, server.key())] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let shutdown = CancellationToken::new();
            let (attached, mut streams) = mpsc::channel(1);
            let routes = Routes::new(SchedulerServer::new(Silent(attached)));
            let serve = serve(listener, &server, ClientAuth::Required, routes, shutdown.clone());
            let served = tokio::spawn(serve);
            let mut scheduler = SchedulerClient::new(channel(&client, address, &server.identity().id));
            let mut heard = scheduler.attach(tokio_stream::pending()).await.unwrap().into_inner();
            let mut said = streams.recv().await.unwrap();

            side.revoked_keys().replace([key]);
            soon(heard.message()).await.unwrap_err();
            soon(said.message()).await.unwrap_err();
            assert!(soon(scheduler.attach(tokio_stream::pending())).await.is_err(), "it is refused");
            side.revoked_keys().replace([]);
            shutdown.cancel();
            served.await.unwrap().unwrap();
        }
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(2 * HANDSHAKE_TIMEOUT, future).await.expect("soon")
    }

    /// A scheduler that says nothing; the test has what peers say.
    struct Silent(mpsc::Sender<Streaming<FromPeer>>);

    #[tonic::async_trait]
    impl Scheduler for Silent {
        type AttachStream = tokio_stream::Pending<Result<ToPeer, Status>>;

        async fn attach(
            &self,
            request: Request<Streaming<FromPeer>>,
        ) -> Result<Response<Self::AttachStream>, Status> {
            self.0.send(request.into_inner()).await.unwrap();
            Ok(Response::new(tokio_stream::pending()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_shake_hands_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let identity = TestCa::new().identity(dir.path(), "flotilla://prod/eu/scheduler/s-0");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = serve(listener, &identity, ClientAuth::Required, Routes::default(), shutdown.clone());
        let server = tokio::spawn(server);

        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
