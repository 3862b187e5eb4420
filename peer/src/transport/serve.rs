//! Answering other peers: pieces for everyone in the region, registries for a seed's peers.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_daemon::crowd::Crowd;
use flotilla_peer_core::UploadRefusal;
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Credential, Deliver, Forward, Request, Response, forward, request};
use flotilla_proto::{Authorization, Digest, Identity, Layout, RegistryHost, frame};
use http_body_util::BodyExt as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::follow::FOLLOWS;
use super::guests;
use super::pacer::Pacer;
use super::pool::Member;
use super::small::GivenCounts;
use super::stream::{Incoming, cut};
use super::{Delivered, Offered, Transport};
use crate::bare::is_bare;
use crate::body;
use crate::delivering::DeliveryQuestion;
use crate::http_wire::{head_to_wire, request_from_wire};
use crate::resource::Resource;
use crate::seed::{Moment, Seed};
use crate::source::{ForwardError, Purpose, ReadCredential};
use crate::store::Store;
use crate::swarm::Swarm;

/// What requests are answered from.
pub(crate) struct Services {
    pub(super) store: Store,
    pub(super) swarm: Swarm,
    /// `None` in a peer that is no seed.
    pub(super) seed: Option<Arc<Seed>>,
    pub(super) uploaded_bytes: Counter,
    pub(super) sending: Arc<Pacer>,
    pub(super) given: GivenCounts,
    /// Small blobs sent whole.
    pub(super) small_blobs: Counter,
}

impl Services {
    pub(crate) fn new(
        transport: &Transport,
        store: Store,
        swarm: Swarm,
        seed: Option<Arc<Seed>>,
        metrics: &mut Registry,
    ) -> Self {
        let mut count = |name, help| {
            let counter = Counter::default();
            metrics.register(name, help, counter.clone());
            counter
        };
        Self {
            store,
            swarm,
            seed,
            uploaded_bytes: count("flotilla_peer_uploaded_bytes", "Bytes of pieces sent to other peers"),
            small_blobs: count("flotilla_peer_small_blobs", "Small blobs that this seed sent whole"),
            sending: transport.sending.clone(),
            given: GivenCounts::default(),
        }
    }
}

impl Transport {
    /// Answers requests on every connection until `shutdown`.
    pub(crate) async fn serve(self, services: Arc<Services>, shutdown: CancellationToken) {
        let dialled = self.pool.to_serve.lock().await.take();
        let mut dialled = dialled.expect("a transport is served once");
        let (crowd, mut connections) = (Crowd::new(HANDSHAKE_PATIENCE), JoinSet::new());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                Some((member, connection)) = dialled.recv() => {
                    connections.spawn(self.clone().answer(member, connection, services.clone()));
                }
                Some(incoming) = self.pool.endpoint.accept() => {
                    if crowd.len() >= RETRY_FROM && !incoming.remote_address_validated() {
                        // A client that is at its address comes again, one round trip later (RFC 9000 §8.1.2).
                        let _ = incoming.retry();
                        continue;
                    }
                    let seat = crowd.enter(incoming.remote_address().ip());
                    let (transport, services) = (self.clone(), services.clone());
                    connections.spawn(async move {
                        // Only what is awaited costs a handshake.
                        let shaken = timeout(HANDSHAKE_TIMEOUT, async { incoming.await });
                        let shaken = tokio::select! {
                            biased;
                            () = seat.turned_away() => return,
                            shaken = shaken => shaken,
                        };
                        drop(seat);
                        let Ok(Ok(connection)) = shaken else { return };
                        transport.receive(connection, services).await;
                    });
                }
            }
        }
        self.pool.endpoint.close(VarInt::from_u32(0), b"stopping");
        self.pool.endpoint.wait_idle().await;
    }

    /// Answers on a connection that another one dialled, if it may be here.
    async fn receive(self, connection: Connection, services: Arc<Services>) {
        let from = connection.remote_address();
        let member = match self.pool.admit(&connection) {
            Ok(member) => member,
            Err(reason) => return tracing::warn!(%from, reason, "connection refused"),
        };
        let Some(_place) = self.pool.guests.enter(&member.identity.id) else {
            tracing::warn!(peer = %member.identity.id, %from, limit = guests::MOST, "connection refused: it has many");
            return connection.close(TOO_MANY, b"this identity has too many connections here");
        };
        self.pool.keep(&member.identity.id, &connection).await;
        self.answer(member, connection, services).await;
    }

    /// Answers the requests that come over one connection, until it ends or its other end's key is revoked.
    async fn answer(self, member: Member, connection: Connection, services: Arc<Services>) {
        self.pool.opened();
        let caller = member.identity;
        let mut revoked = pin!(self.pool.revoked.until_revoked(member.key));
        let mut requests = JoinSet::new();
        let follows = Arc::new(Semaphore::new(FOLLOWS));
        loop {
            tokio::select! {
                Some(_) = requests.join_next() => {}
                () = &mut revoked => {
                    tracing::info!(peer = %caller.id, "connection closed: the peer's key was revoked");
                    connection.close(REVOKED, b"this key was revoked");
                    break;
                }
                stream = connection.accept_bi() => {
                    let Ok((send, receive)) = stream else { break };
                    let (services, caller, follows) = (services.clone(), caller.clone(), follows.clone());
                    let receive = Incoming::new(receive);
                    requests.spawn(async move { services.request(&caller, send, receive, &follows).await });
                }
            }
        }
        self.pool.closed();
    }
}

impl Services {
    async fn request(
        &self,
        caller: &Identity,
        mut send: SendStream,
        mut receive: Incoming,
        follows: &Arc<Semaphore>,
    ) {
        let kind = match receive.header::<Request>(HEADER_PATIENCE).await {
            Ok(Request { kind: Some(kind), .. }) => kind,
            Ok(Request { kind: None, .. }) => return refuse(send, "a request of an unknown kind").await,
            Err(error) => {
                tracing::debug!(peer = %caller.id, %error, "read a request's header");
                return cut(&mut send);
            }
        };
        let done = match kind {
            request::Kind::Pieces(run) => self.pieces(&mut send, &caller.id, &run).await,
            request::Kind::Take(take) => self.take(&mut send, &caller.id, &take).await,
            request::Kind::Follow(follow) => self.followed(&mut send, &follow, follows).await,
            request::Kind::Forward(forward) => self.forward(&mut send, receive, forward).await,
            request::Kind::Credential(credential) => self.credential(&mut send, credential).await,
            request::Kind::Small(small) => self.small(&mut send, small).await,
            request::Kind::Deliver(deliver) => self.deliver(&mut send, deliver).await,
        };
        match done {
            // The caller may have gone: its end shows on its own side.
            Ok(()) => drop(send.finish()),
            Err(error) => {
                tracing::debug!(peer = %caller.id, %error, "answer a request");
                cut(&mut send);
            }
        }
    }

    async fn forward(
        &self,
        send: &mut SendStream,
        receive: Incoming,
        forward: Forward,
    ) -> Result<(), AnswerError> {
        let Some(seed) = &self.seed else {
            return say(send, Status::Refused, "only a seed speaks to registries").await;
        };
        let purpose = match forward.purpose() {
            forward::Purpose::Pass => Purpose::Pass,
            forward::Purpose::Probe => Purpose::Probe,
            forward::Purpose::Token => Purpose::Token,
        };
        let (Ok(upstream), Ok(request)) = (forward.upstream.parse(), request_from_wire(&forward)) else {
            return say(send, Status::Refused, "a malformed request").await;
        };
        let manifest = (purpose == Purpose::Pass).then(|| manifest_read(&upstream, &request)).flatten();
        let request =
            request.map(|()| if forward.bare { body::empty() } else { body::from_stream(receive, None) });
        match seed.forward(&upstream, request, purpose).await {
            Ok(answer) => {
                let answer = match manifest.filter(|_| answer.status() == http::StatusCode::OK) {
                    Some(credential) => self.begin_small(answer, &credential).await,
                    None => answer,
                };
                let (head, mut body) = answer.into_parts();
                let head = Some(head_to_wire(head.status, &head.headers));
                let header = Response { status: Status::Ok.into(), head, ..Default::default() };
                send.write_chunk(frame::encode(&header)).await?;
                while let Some(frame) = body.frame().await {
                    if let Ok(data) = frame.map_err(|error| AnswerError::Body(error.to_string()))?.into_data()
                    {
                        send.write_chunk(data).await?;
                    }
                }
                Ok(())
            }
            Err(error) => say_forward_error(send, &error).await,
        }
    }

    async fn credential(&self, send: &mut SendStream, offered: Credential) -> Result<(), AnswerError> {
        let Some(seed) = &self.seed else {
            return say(send, Status::Refused, "only a seed speaks to registries").await;
        };
        let moment = if offered.after_failure { Moment::AfterFailure } else { Moment::First };
        let Some((digest, credential)) = read_credential(offered) else {
            return say(send, Status::Refused, "a malformed credential").await;
        };
        match seed.confirm(digest, credential, moment).await {
            Ok(Offered::Confirmed) => say(send, Status::Ok, "").await,
            Ok(Offered::Refused(refusal)) => say_refusal(send, refusal).await,
            Err(error) => say_forward_error(send, &error).await,
        }
    }
}

impl Services {
    async fn deliver(&self, send: &mut SendStream, asked: Deliver) -> Result<(), AnswerError> {
        let Some(seed) = &self.seed else {
            return say(send, Status::Refused, "only a seed speaks to registries").await;
        };
        let layout = Layout::of(asked.size).filter(|layout| layout.size() > 0);
        let (Some((digest, credential)), Some(layout)) = (asked.credential.and_then(read_credential), layout)
        else {
            return say(send, Status::Refused, "a malformed question about a delivery").await;
        };
        let known_only = asked.known_only;
        match seed.deliver(DeliveryQuestion { digest, layout, credential, known_only }).await {
            Ok(Delivered::Whole(mark)) => {
                let (status, origins) = (Status::Ok.into(), vec![mark.bits()]);
                let header = Response { status, origins, ..Default::default() };
                Ok(send.write_chunk(frame::encode(&header)).await?)
            }
            Ok(Delivered::Unknown) => say(send, Status::NotHeld, "").await,
            Ok(Delivered::Pending) => {
                let header = Response { status: Status::Ok.into(), pending: true, ..Default::default() };
                Ok(send.write_chunk(frame::encode(&header)).await?)
            }
            Ok(Delivered::Refused(refusal)) => say_refusal(send, refusal).await,
            Err(error) => say_forward_error(send, &error).await,
        }
    }
}

/// With whose credential a request reads a manifest, if it does.
fn manifest_read(upstream: &RegistryHost, request: &http::Request<()>) -> Option<ReadCredential> {
    let Resource::Manifest(repository, _) = Resource::of(request.uri().path()) else { return None };
    let is_read = request.method() == http::Method::GET && is_bare(request.headers(), request.uri().query());
    is_read.then(|| ReadCredential {
        upstream: upstream.clone(),
        repository,
        authorization: crate::http_wire::authorization(request.headers()),
    })
}

/// A client's credential, and what it is for; `None` if it is malformed.
pub(super) fn read_credential(offered: Credential) -> Option<(Digest, ReadCredential)> {
    let digest = Digest::try_from(&offered.digest).ok()?;
    let (upstream, repository) = (offered.upstream.parse().ok()?, offered.repository.parse().ok()?);
    let authorization = Authorization::new(offered.authorization);
    Some((digest, ReadCredential { upstream, repository, authorization }))
}

/// Passes on how the registry refused a credential.
pub(super) async fn say_refusal(
    send: &mut SendStream,
    refusal: http::Response<Bytes>,
) -> Result<(), AnswerError> {
    let (head, body) = refusal.into_parts();
    let head = Some(head_to_wire(head.status, &head.headers));
    let header = Response { status: Status::Ok.into(), head, body, ..Default::default() };
    Ok(send.write_chunk(frame::encode(&header)).await?)
}

pub(super) async fn say_forward_error(
    send: &mut SendStream,
    error: &ForwardError,
) -> Result<(), AnswerError> {
    let status = match error {
        ForwardError::Upstream(_) => Status::UpstreamUnknown,
        ForwardError::Endpoint { .. } => Status::UpstreamFailed,
    };
    let mut headers = http::HeaderMap::new();
    if let Some(after) = error.retry_after() {
        headers.insert(http::header::RETRY_AFTER, after.as_secs().into());
    }
    let told = http::StatusCode::from_u16(error.status()).unwrap_or(http::StatusCode::BAD_GATEWAY);
    let head = Some(head_to_wire(told, &headers));
    let header = Response { status: status.into(), head, detail: error.to_string(), ..Default::default() };
    Ok(send.write_chunk(frame::encode(&header)).await?)
}

async fn refuse(mut send: SendStream, detail: &str) {
    if say(&mut send, Status::Refused, detail).await.is_ok() {
        // The caller may have gone.
        let _ = send.finish();
    }
}

pub(super) async fn say(send: &mut SendStream, status: Status, detail: &str) -> Result<(), AnswerError> {
    let header = Response { status: status.into(), detail: detail.to_owned(), ..Default::default() };
    Ok(send.write_chunk(frame::encode(&header)).await?)
}

/// From so many handshakes on, a client must first show that it is at the address that it claims.
const RETRY_FROM: usize = Crowd::MANY / 2;

/// For a handshake, some round trips within a region.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long it may be turned away, where there are many.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);

/// How a connection is closed.
const TOO_MANY: VarInt = VarInt::from_u32(3);
const REVOKED: VarInt = VarInt::from_u32(4);

const HEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Why an answer was not given whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("a run was cut short: {0:?}")]
    Refused(UploadRefusal),
    #[error("the child did not take a piece in time")]
    TooSlow,
    #[error("the registry's body broke: {0}")]
    Body(String),
    #[error("a small blob was not had: {0}")]
    Small(String),
}
