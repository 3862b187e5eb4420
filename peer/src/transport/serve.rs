//! Answering other peers: pieces for everyone in the region, registries for a seed's peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Credential, Forward, PieceRun, Request, Response, forward, request};
use flotilla_proto::{Authorization, Digest, Identity, Run, frame};
use http_body_util::BodyExt as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use quinn::{Connection, SendStream, WriteError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::stream::{Incoming, cut};
use super::{Offered, Transport};
use crate::body;
use crate::http_wire::{head_to_wire, request_from_wire};
use crate::seed::Seed;
use crate::source::{ForwardError, Purpose, ReadCredential};
use crate::store::{ReadPieceError, Store};
use crate::swarm::Swarm;

/// What requests are answered from.
pub(crate) struct Services {
    store: Store,
    swarm: Swarm,
    /// `None` in a peer that is no seed.
    seed: Option<Arc<Seed>>,
    uploads: Semaphore,
    waiting: AtomicUsize,
    uploaded_bytes: Counter,
}

impl Services {
    pub(crate) fn new(store: Store, swarm: Swarm, seed: Option<Arc<Seed>>, metrics: &mut Registry) -> Self {
        let uploaded_bytes = Counter::default();
        metrics.register(
            "flotilla_peer_uploaded_bytes",
            "Bytes of pieces sent to other peers",
            uploaded_bytes.clone(),
        );
        let uploads = Semaphore::new(UPLOADS_AT_ONCE);
        Self { store, swarm, seed, uploads, waiting: AtomicUsize::new(0), uploaded_bytes }
    }
}

impl Transport {
    /// Answers requests on every connection until `shutdown`.
    pub(crate) async fn serve(self, services: Arc<Services>, shutdown: CancellationToken) {
        let dialled = self.pool.to_serve.lock().await.take();
        let mut dialled = dialled.expect("a transport is served once");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                Some((identity, connection)) = dialled.recv() => {
                    connections.spawn(self.clone().answer(identity, connection, services.clone()));
                }
                Some(incoming) = self.pool.endpoint.accept() => {
                    let (transport, services) = (self.clone(), services.clone());
                    connections.spawn(async move {
                        let Ok(connection) = incoming.await else { return };
                        match transport.pool.admit(&connection) {
                            Ok(identity) => {
                                transport.pool.keep(&identity.id, &connection).await;
                                transport.answer(identity, connection, services).await;
                            }
                            Err(reason) => tracing::warn!(from = %connection.remote_address(), reason, "connection refused"),
                        }
                    });
                }
            }
        }
        self.pool.endpoint.close(quinn::VarInt::from_u32(0), b"stopping");
        self.pool.endpoint.wait_idle().await;
    }

    /// Answers the requests that come over one connection, until it ends.
    async fn answer(self, caller: Identity, connection: Connection, services: Arc<Services>) {
        self.pool.opened();
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = requests.join_next() => {}
                stream = connection.accept_bi() => {
                    let Ok((send, receive)) = stream else { break };
                    let (services, caller) = (services.clone(), caller.clone());
                    requests.spawn(async move { services.request(&caller, send, Incoming::new(receive)).await });
                }
            }
        }
        self.pool.closed();
    }
}

impl Services {
    async fn request(&self, caller: &Identity, mut send: SendStream, mut receive: Incoming) {
        let kind = match receive.header::<Request>(HEADER_PATIENCE).await {
            Ok(Request { kind: Some(kind), .. }) => kind,
            Ok(Request { kind: None, .. }) => return refuse(send, "a request of an unknown kind").await,
            Err(error) => {
                tracing::debug!(peer = %caller.id, %error, "read a request's header");
                return cut(&mut send);
            }
        };
        let done = match kind {
            request::Kind::Pieces(run) => self.pieces(&mut send, &run).await,
            request::Kind::Forward(forward) => self.forward(&mut send, receive, forward).await,
            request::Kind::Credential(credential) => self.credential(&mut send, credential).await,
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

    async fn pieces(&self, send: &mut SendStream, run: &PieceRun) -> Result<(), AnswerError> {
        let Ok(digest) = Digest::try_from(&run.digest) else {
            return say(send, Status::Refused, "a digest has 32 bytes").await;
        };
        let Some(_turn) = self.turn().await else {
            return say(send, Status::Busy, "").await;
        };
        let Ok(Some(file)) = self.store.open_blob(digest).await else {
            return say(send, Status::NotHeld, "").await;
        };
        let mut started = false;
        for piece in (Run { first: run.first, count: run.count }).pieces() {
            let bytes = match self.store.read(&file, piece).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    if let ReadPieceError::Corrupt { .. } = error {
                        self.swarm.damaged(digest, piece).await;
                    }
                    return if started { Err(error.into()) } else { say(send, Status::NotHeld, "").await };
                }
            };
            if !std::mem::replace(&mut started, true) {
                say(send, Status::Ok, "").await?;
            }
            self.uploaded_bytes.inc_by(bytes.len() as u64);
            send.write_chunk(bytes).await?;
        }
        if started { Ok(()) } else { say(send, Status::NotHeld, "").await }
    }

    /// A place among the uploads that run at once; `None` where too many wait already.
    async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        if let Ok(turn) = self.uploads.try_acquire() {
            return Some(turn);
        }
        let _waiting = Waiting::join(&self.waiting)?;
        self.uploads.acquire().await.ok()
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
        };
        let (Ok(upstream), Ok(request)) = (forward.upstream.parse(), request_from_wire(&forward)) else {
            return say(send, Status::Refused, "a malformed request").await;
        };
        let request = request.map(|()| body::from_stream(receive));
        match seed.forward(&upstream, request, purpose).await {
            Ok(answer) => {
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
        let names = (Digest::try_from(&offered.digest), offered.upstream.parse(), offered.repository.parse());
        let (Ok(digest), Ok(upstream), Ok(repository)) = names else {
            return say(send, Status::Refused, "a malformed credential").await;
        };
        let authorization = Authorization::new(offered.authorization);
        let credential = ReadCredential { upstream, repository, authorization };
        match seed.confirm(digest, credential).await {
            Ok(Offered::Confirmed) => say(send, Status::Ok, "").await,
            Ok(Offered::Refused(refusal)) => {
                let (head, body) = refusal.into_parts();
                let head = Some(head_to_wire(head.status, &head.headers));
                let header = Response { status: Status::Ok.into(), head, body, ..Default::default() };
                Ok(send.write_chunk(frame::encode(&header)).await?)
            }
            Err(error) => say_forward_error(send, &error).await,
        }
    }
}

/// One more that waits for a turn.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(waiting: &'a AtomicUsize) -> Option<Self> {
        if waiting.fetch_add(1, Ordering::Relaxed) >= UPLOADS_WAITING {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn say_forward_error(send: &mut SendStream, error: &ForwardError) -> Result<(), AnswerError> {
    let status = match error {
        ForwardError::Upstream(_) => Status::UpstreamUnknown,
        ForwardError::Endpoint { .. } => Status::UpstreamFailed,
    };
    say(send, status, &error.to_string()).await
}

async fn refuse(mut send: SendStream, detail: &str) {
    if say(&mut send, Status::Refused, detail).await.is_ok() {
        // The caller may have gone.
        let _ = send.finish();
    }
}

async fn say(send: &mut SendStream, status: Status, detail: &str) -> Result<(), AnswerError> {
    let header =
        Response { status: status.into(), detail: detail.to_owned(), head: None, body: Bytes::new() };
    Ok(send.write_chunk(frame::encode(&header)).await?)
}

/// Pieces sent at once (K, `scheduling.md` §2b).
const UPLOADS_AT_ONCE: usize = 8;

/// Requests that may wait for their turn; one more is answered *busy*. Twice what the
/// scheduler assigns a parent (Q), since several tasks' plans may meet.
const UPLOADS_WAITING: usize = 32;

const HEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Why an answer was not given whole.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Piece(#[from] ReadPieceError),
    #[error("the registry's body broke: {0}")]
    Body(String),
}
