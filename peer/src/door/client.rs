//! The clients that are connected, and what ends a connection before its client does.
//!
//! Each has a seat in the crowd of its owner (a local user, else an address), an account in the flight of answers, and
//! a stream that is watched. One that has asked for nothing, takes nothing, or is the idle one of the owner with
//! most, goes. Each [`Bound`] that ends a connection or refuses a request is counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flotilla_daemon::crowd::{Crowd, Room, Seat, Work};
use flotilla_daemon::owner::{Owner, Owners};
use flotilla_daemon::watched::{Movement, Watched};
use http::Extensions;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::flight::{Account, Flight};
use crate::source::{BodyStream, BoxError};

/// All clients of a node's doors.
pub(crate) struct Clients {
    crowd: Crowd,
    owners: Owners,
    flight: Flight,
    bounds: Bounds,
    refusals: Arc<Semaphore>,
    /// Held for one operation; swept when a client comes whose owner has no other.
    asking_by_owner: Mutex<HashMap<Owner, Weak<Asking>>>,
}

/// What one owner's clients ask of registries at a time.
struct Asking {
    prompt: Arc<Semaphore>,
    /// Pushes and listings, which may take long.
    patient: Arc<Semaphore>,
}

/// One client's connection.
pub(super) struct Client {
    seat: Seat,
    pub(super) account: Arc<Account>,
    pub(super) movement: Arc<Movement>,
    pub(super) bounds: Bounds,
    asking: Arc<Asking>,
}

/// How often clients met a bound; clones count into the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds(Family<Labels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    bound: Bound,
}

/// What a client met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Bound {
    /// All connections are at work, and its owner has as many as anybody: 503.
    Connections,
    /// Its connection made room for another.
    MadeRoom,
    /// It sent no whole head of a request in time.
    FirstRequest,
    /// It took no byte of an answer for too long.
    Stalled,
    /// It took no byte for a while, and others waited for what it held.
    Pressed,
    /// No room for its answer's bytes in time: 503.
    AnswerBytes,
    /// Its owner asks too much of registries at a time: 503.
    Requests,
    /// Nothing moved in its tunnel for too long.
    IdleTunnel,
}

impl Bound {
    const ALL: [Self; 8] = [
        Self::Connections,
        Self::MadeRoom,
        Self::FirstRequest,
        Self::Stalled,
        Self::Pressed,
        Self::AnswerBytes,
        Self::Requests,
        Self::IdleTunnel,
    ];
}

impl EncodeLabelValue for Bound {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Connections => "connections",
            Self::MadeRoom => "made_room",
            Self::FirstRequest => "first_request",
            Self::Stalled => "stalled",
            Self::Pressed => "pressed",
            Self::AnswerBytes => "answer_bytes",
            Self::Requests => "requests",
            Self::IdleTunnel => "idle_tunnel",
        };
        label.encode(encoder)
    }
}

impl Bounds {
    pub(super) fn met(&self, bound: Bound) {
        self.0.get_or_create(&Labels { bound }).inc();
    }

    #[cfg(test)]
    pub(super) fn count(&self, bound: Bound) -> u64 {
        self.0.get_or_create(&Labels { bound }).get()
    }
}

impl Clients {
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let room = Room { many: MAX_CONNECTIONS, most: MAX_CONNECTIONS, patience: Duration::ZERO };
        Self::with_room(room, metrics)
    }

    fn with_room(room: Room, metrics: &mut Registry) -> Self {
        let bounds = Bounds::default();
        let help = "How often a client of the doors met a bound";
        metrics.register("flotilla_peer_door_bounds", help, bounds.0.clone());
        for bound in Bound::ALL {
            let _at_zero = bounds.0.get_or_create(&Labels { bound });
        }
        Self {
            crowd: Crowd::with_room(room),
            owners: Owners::open(),
            flight: Flight::register(metrics),
            bounds,
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            asking_by_owner: Mutex::default(),
        }
    }

    /// Who has just connected from `address`, and the stream as it is watched. Where there is no room, the stream
    /// comes back.
    pub(super) fn enter(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(Arc<Client>, Watched<TcpStream>), TcpStream> {
        let here = stream.local_addr().ok();
        let owner = here.map_or_else(|| Owner::at(address.ip()), |here| self.owners.of(address, here));
        let Some(seat) = self.crowd.try_enter(owner) else {
            self.bounds.met(Bound::Connections);
            return Err(stream);
        };
        // Small answers should not wait for more; a client that is gone shows later.
        let _ = stream.set_nodelay(true);
        // Where the kernel does not know this bound, its own holds.
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
        let stream = Watched::new(stream, TAKE_TIME);
        Ok((Arc::new(self.client(owner, seat, stream.movement())), stream))
    }

    fn client(&self, owner: Owner, seat: Seat, movement: Arc<Movement>) -> Client {
        let account = self.flight.account(owner, movement.clone());
        Client { seat, account, movement, bounds: self.bounds.clone(), asking: self.asking(owner) }
    }

    fn asking(&self, owner: Owner) -> Arc<Asking> {
        let mut asking_by_owner = self.asking_by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = asking_by_owner.get(&owner).and_then(Weak::upgrade) {
            return asking;
        }
        asking_by_owner.retain(|_, asking| asking.strong_count() > 0);
        let turns = || Arc::new(Semaphore::new(ASKING));
        let asking = Arc::new(Asking { prompt: turns(), patient: turns() });
        asking_by_owner.insert(owner, Arc::downgrade(&asking));
        asking
    }

    /// A client of no socket's.
    #[cfg(test)]
    pub(super) fn enter_stream<S>(&self, owner: Owner, stream: S) -> (Arc<Client>, Watched<S>) {
        let (seat, stream) = (self.crowd.enter(owner), Watched::new(stream, TAKE_TIME));
        (Arc::new(self.client(owner, seat, stream.movement())), stream)
    }

    /// Tells a client in plain HTTP that there is no room, unless many are told so already.
    pub(super) fn refuse(&self, mut stream: TcpStream) -> Option<impl Future<Output = ()> + Send + use<>> {
        let permit = self.refusals.clone().try_acquire_owned().ok()?;
        Some(async move {
            let _permit = permit;
            let told = async {
                stream.write_all(full().as_bytes()).await?;
                stream.shutdown().await?;
                // A close with unread bytes would take the answer back.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
            };
            // A client that is gone need not be told.
            let _ = timeout(REFUSAL_TIME, told).await;
        })
    }
}

impl Client {
    /// Serves the connection until it ends, or must.
    pub(super) async fn serve(&self, connection: impl Future<Output = ()>) {
        tokio::select! {
            () = connection => {}
            () = self.seat.turned_away() => self.bounds.met(Bound::MadeRoom),
            () = self.account.cut() => self.bounds.met(Bound::Pressed),
        }
        if self.movement.is_overdue() {
            self.bounds.met(Bound::Stalled);
        }
    }

    /// A turn to ask a registry; `None` if there is none within `patience`.
    pub(super) async fn turn(&self, is_prompt: bool, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let turns = if is_prompt { &self.asking.prompt } else { &self.asking.patient };
        let turn = timeout(patience, turns.clone().acquire_owned()).await;
        let turn = turn.ok().map(|turn| turn.expect("never closed"));
        if turn.is_none() {
            self.bounds.met(Bound::Requests);
        }
        turn
    }

    /// Something is done for it, until the work is dropped.
    pub(super) fn work(&self) -> Work {
        self.seat.work()
    }

    /// Returns once nothing moved in its tunnel for too long. While nothing moves, the tunnel is as idle as a
    /// connection without a request.
    pub(super) async fn idle_tunnel(&self) {
        let (mut before, mut idle, mut work) = (self.movement.bytes(), Duration::ZERO, Some(self.work()));
        while idle < TUNNEL_IDLE {
            tokio::time::sleep(TUNNEL_TURN).await;
            let bytes = self.movement.bytes();
            if bytes == before {
                idle += TUNNEL_TURN;
                work = None;
            } else {
                (before, idle) = (bytes, Duration::ZERO);
                work.get_or_insert_with(|| self.work());
            }
        }
        self.bounds.met(Bound::IdleTunnel);
    }
}

/// Whose request it is that has these extensions.
pub(super) fn of(extensions: &Extensions) -> Arc<Client> {
    extensions.get::<Arc<Client>>().expect("every request that a door serves is a client's").clone()
}

/// A body that is work until it is sent.
pub(super) fn at_work(body: BodyStream, work: Work) -> BodyStream {
    AtWork { body, _work: work }.boxed_unsync()
}

struct AtWork {
    body: BodyStream,
    _work: Work,
}

impl Body for AtWork {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The answer to a client when there is no room.
fn full() -> String {
    let message = format!(
        "all {MAX_CONNECTIONS} connections of this node's doors are at work, and you hold too large a part of \
         them to get one more"
    );
    let body =
        serde_json::json!({ "errors": [{ "code": "UNAVAILABLE", "message": message, "detail": null }] });
    let body = body.to_string();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: {RETRY_AFTER}\r\nflotilla-refused-by: peer\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Clients at a time; a node's runtime opens some dozen. From so many on, the owner with most loses an idle one.
const MAX_CONNECTIONS: usize = 4096;

/// Requests of one owner that wait for a registry's answer at a time, and as many pushes and listings: a seed takes 256
/// of a node's (`transport/quic.rs`).
const ASKING: usize = 32;

/// Clients at a time that are told that there is no room; more are closed at once.
const MAX_REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Seconds until a client that met a bound may ask again.
pub(super) const RETRY_AFTER: u16 = 5;

/// For a client to take some of what is written to it.
const TAKE_TIME: Duration = Duration::from_secs(60);

/// Bytes of an answer that the kernel takes before its client has room for them. Left to itself it takes 4 MiB of
/// each, and with a thousand clients all that it has for TCP: then nothing moves on the machine.
const UNSENT_BYTES: u32 = 128 << 10;

/// A tunnel in which nothing moves.
const TUNNEL_IDLE: Duration = Duration::from_secs(300);
const TUNNEL_TURN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, duplex};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    const ROOT: Owner = Owner::User(0);

    #[tokio::test]
    async fn who_finds_no_room_is_told_so_and_when_to_come_again() {
        let room = Room { many: 2, most: 2, patience: Duration::ZERO };
        let clients = Clients::with_room(room, &mut Registry::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connected = Vec::new();
        let mut at_work = Vec::new();
        for _ in 0..2 {
            connected.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (stream, from) = listener.accept().await.unwrap();
            let (client, _stream) = clients.enter(stream, from).ok().unwrap();
            at_work.push((client.work(), client));
        }
        let mut turned_away = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        turned_away.write_all(b"GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let stream =
            clients.enter(stream, from).err().expect("nobody is idle, and it has as many as anybody");
        let telling = tokio::spawn(clients.refuse(stream).unwrap());
        let mut answer = String::new();
        turned_away.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["errors"][0]["code"], "UNAVAILABLE");
        assert_eq!(at_work[0].1.bounds.count(Bound::Connections), 1);
        drop(turned_away);
        telling.await.unwrap();

        // One that is done with makes room.
        let (work, idle) = at_work.remove(0);
        drop(work);
        let serving = tokio::spawn(async move {
            idle.serve(std::future::pending()).await;
            idle
        });
        connected.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (stream, from) = listener.accept().await.unwrap();
        clients.enter(stream, from).ok().unwrap();
        assert_eq!(serving.await.unwrap().bounds.count(Bound::MadeRoom), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_owners_requests_wait_for_their_turn_and_nobody_elses_do() {
        let clients = Clients::register(&mut Registry::default());
        let connect = |owner| clients.enter_stream(owner, duplex(64).0).0;
        let (hog, other) = (connect(ROOT), connect(Owner::User(7)));
        let mut turns = Vec::new();
        for _ in 0..ASKING {
            turns.push(connect(ROOT).turn(true, Duration::ZERO).await.unwrap());
        }
        assert!(hog.turn(true, Duration::from_secs(9)).await.is_none());
        assert_eq!(hog.bounds.count(Bound::Requests), 1);
        assert!(hog.turn(false, Duration::ZERO).await.is_some(), "a push waits for pushes");
        assert!(other.turn(true, Duration::ZERO).await.is_some());
        turns.pop();
        assert!(hog.turn(true, Duration::ZERO).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_ends_once_nothing_moves() {
        let room = Room { many: 2, most: 2, patience: Duration::ZERO };
        let clients = Clients::with_room(room, &mut Registry::default());
        let (mut far, near) = duplex(64);
        let (client, mut near) = clients.enter_stream(ROOT, near);
        let began_at = Instant::now();
        let tunnel = tokio::spawn(async move {
            client.idle_tunnel().await;
            client.bounds.count(Bound::IdleTunnel)
        });
        for _ in 0..4 {
            tokio::time::sleep(TUNNEL_IDLE - TUNNEL_TURN - Duration::from_secs(5)).await;
            far.write_all(b"x").await.unwrap();
            near.read_u8().await.unwrap();
        }
        assert_eq!(tunnel.await.unwrap(), 1);
        let idle = began_at.elapsed() - 4 * (TUNNEL_IDLE - TUNNEL_TURN - Duration::from_secs(5));
        assert!((TUNNEL_IDLE..=TUNNEL_IDLE + TUNNEL_TURN).contains(&idle), "{idle:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_in_which_nothing_moves_makes_room_like_an_idle_connection() {
        let room = Room { many: 1, most: 1, patience: Duration::ZERO };
        let clients = Clients::with_room(room, &mut Registry::default());
        let (_far, near) = duplex(64);
        let (client, _near) = clients.enter_stream(ROOT, near);
        let tunnel = tokio::spawn(async move { client.serve(client.idle_tunnel()).await });
        tokio::time::sleep(TUNNEL_TURN / 2).await;
        assert!(clients.crowd.try_enter(ROOT).is_none(), "something may be moving");
        tokio::time::sleep(TUNNEL_TURN).await;
        assert!(clients.crowd.try_enter(ROOT).is_some());
        tunnel.await.unwrap();
    }
}
