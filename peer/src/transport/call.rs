//! Asking a seed to speak to a registry, and opening requests of any kind.

use std::time::Duration;

use bytes::Bytes;
use flotilla_peer_core::{FetchError, Patience};
use flotilla_proto::wire::peer as wire;
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Request, Response, request};
use flotilla_proto::{Digest, Origins, PROTOCOL, PeerId, RegistryMark, Role, frame};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use quinn::{Connection, SendStream};
use tokio::time::{Instant, timeout};

use super::fetch::gather;
use super::pool::{Member, Reached};
use super::stream::{HeaderError, Incoming, cut};
use super::{DialError, Transport};
use crate::delivering::DeliveryQuestion;
use crate::http_wire::{BadHead, head_from_wire, headers_to_wire};
use crate::source::{BodyStream, Purpose, ReadCredential};

/// What a seed says to a credential.
#[derive(Debug)]
pub(crate) enum Offered {
    /// The registry holds the blob in that repository.
    Confirmed,
    /// The registry refused, in these words.
    Refused(http::Response<Bytes>),
}

/// A client's credential for a blob, as `read_credential` reads it.
pub(crate) fn credential_to_wire(digest: Digest, credential: &ReadCredential) -> wire::Credential {
    wire::Credential {
        digest: digest.into(),
        upstream: credential.upstream.to_string(),
        repository: credential.repository.to_string(),
        authorization: credential.authorization.expose().clone(),
        after_failure: false,
    }
}

fn deliverer(told: &[u64]) -> RegistryMark {
    told.first().map_or(RegistryMark::UNKNOWN, |mark| RegistryMark::from_bits(*mark))
}

/// What a seed says of a registry's delivery of a blob.
#[derive(Debug)]
pub(crate) enum Delivered {
    /// The registry, or one that shares its trust, has delivered every byte of it, and it was right.
    Whole(RegistryMark),
    /// It is at it.
    Pending,
    /// The seed does not know, and was not to find out.
    Unknown,
    /// The registry refused, in these words.
    Refused(http::Response<Bytes>),
}

/// What a seed gives to whoever asks for a small blob.
#[derive(Debug)]
pub(crate) enum Given {
    /// Its bytes, not verified, and the registries that gave them.
    Blob(Bytes, Origins),
    /// The registry refused, in these words.
    Refused(http::Response<Bytes>),
    /// It did not give the blob.
    Failed(Told),
}

impl Transport {
    /// Sends an HTTP request to a registry through a seed, which has `patience` to begin its
    /// answer. The answer's body streams.
    ///
    /// # Errors
    ///
    /// If the seed cannot be reached or could not reach the registry.
    pub(crate) async fn forward(
        &self,
        seed: &PeerId,
        forward: http::Request<BodyStream>,
        upstream: &str,
        purpose: Purpose,
        patience: Duration,
    ) -> Result<http::Response<BodyStream>, CallError> {
        let (head, body) = forward.into_parts();
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let header = wire::Forward {
            upstream: upstream.to_owned(),
            method: head.method.to_string(),
            target,
            headers: headers_to_wire(&head.headers),
            purpose: match purpose {
                Purpose::Pass => wire::forward::Purpose::Pass.into(),
                Purpose::Probe => wire::forward::Purpose::Probe.into(),
                Purpose::Token => wire::forward::Purpose::Token.into(),
            },
            bare: body.is_end_stream(),
        };
        let is_read = header.bare && matches!(head.method, Method::GET | Method::HEAD);
        let kind = request::Kind::Forward(header);
        let (header, answer) = if is_read {
            self.ask_seed(seed, kind, patience).await?
        } else {
            let connection = self.reach_seed(seed).await?.connection;
            let (send, mut answer) = open_on(&connection, seed, kind).await?;
            // A push's body goes out while the answer is awaited: a registry may refuse early.
            let upload = tokio::spawn(upload(send, body));
            let header = answer.header::<Response>(patience).await;
            if header.is_err() {
                upload.abort();
            }
            (header?, answer)
        };
        let header = check(header)?;
        let head = head_from_wire(header.head.as_ref())?;
        Ok(head.map(|()| crate::body::from_stream(answer, Some(self.unread.clone()))))
    }

    /// Hands a seed a client's credential for a blob, and waits for what the registry says.
    ///
    /// # Errors
    ///
    /// If the seed cannot be reached, or could not reach the registry.
    pub(crate) async fn offer(
        &self,
        seed: &PeerId,
        credential: wire::Credential,
        patience: Duration,
    ) -> Result<Offered, CallError> {
        let (header, _) = self.ask_seed(seed, request::Kind::Credential(credential), patience).await?;
        let header = check(header)?;
        match &header.head {
            None => Ok(Offered::Confirmed),
            Some(head) => Ok(Offered::Refused(head_from_wire(Some(head))?.map(|()| header.body))),
        }
    }

    /// Asks a seed for a small blob, which is read from the registry first if the region lacks it.
    /// From the request on it has `patience` for all of it.
    ///
    /// # Errors
    ///
    /// If the seed cannot be reached, has sent the blob to many already, or could not get it.
    pub(crate) async fn small(
        &self,
        seed: &PeerId,
        credential: wire::Credential,
        size: u32,
        patience: Duration,
    ) -> Result<Given, CallError> {
        let small = wire::Small { credential: Some(credential), size: size.into() };
        // That a seed cannot be reached is another failure than that it is slow.
        let reached = self.reach_seed(seed).await?;
        let given = async {
            let kind = request::Kind::Small(small);
            let (header, answer) = self.ask_over(reached, seed, kind, patience).await?;
            if header.status() == Status::UpstreamFailed && header.head.is_some() {
                return Ok(Given::Failed(Told::of(header)));
            }
            let header = check(header)?;
            if let Some(head) = &header.head {
                return Ok(Given::Refused(head_from_wire(Some(head))?.map(|()| header.body)));
            }
            self.receiving.pass(size).await;
            let body = gather(answer, size as usize, Patience { stall: patience, least_bytes_per_s: 0 });
            let bytes = body.await.map_err(CallError::Cut)?;
            Ok(Given::Blob(bytes, Origins::told(&header.origins)))
        };
        timeout(patience, given).await.map_err(|_| HeaderError::Stalled)?
    }

    /// Asks a seed whether the credential's registry has delivered a blob, or has it do so.
    ///
    /// # Errors
    ///
    /// If the seed cannot be reached, or the registry does not deliver the blob.
    pub(crate) async fn deliver(
        &self,
        seed: &PeerId,
        asked: &DeliveryQuestion,
        patience: Duration,
    ) -> Result<Delivered, CallError> {
        let DeliveryQuestion { digest, layout, credential, known_only } = asked;
        let mut credential = credential_to_wire(*digest, credential);
        if *known_only {
            // A seed that must not ask the registry needs no secret.
            credential.authorization.clear();
        }
        let deliver =
            wire::Deliver { credential: Some(credential), size: layout.size(), known_only: *known_only };
        let (header, _) = self.ask_seed(seed, request::Kind::Deliver(deliver), patience).await?;
        if header.status() == Status::NotHeld {
            return Ok(Delivered::Unknown);
        }
        let header = check(header)?;
        match &header.head {
            None if header.pending => Ok(Delivered::Pending),
            None => Ok(Delivered::Whole(deliverer(&header.origins))),
            Some(head) => Ok(Delivered::Refused(head_from_wire(Some(head))?.map(|()| header.body))),
        }
    }

    /// Asks a seed what it may be asked twice, as [`Self::ask_over`] does.
    async fn ask_seed(
        &self,
        seed: &PeerId,
        kind: request::Kind,
        patience: Duration,
    ) -> Result<(Response, Incoming), CallError> {
        let reached = self.reach_seed(seed).await?;
        self.ask_over(reached, seed, kind, patience).await
    }

    /// Asks over this connection. One that stood before and was lost says nothing of the seed, which may have been
    /// started again since: the question goes once more over a new one.
    async fn ask_over(
        &self,
        reached: Reached,
        seed: &PeerId,
        kind: request::Kind,
        patience: Duration,
    ) -> Result<(Response, Incoming), CallError> {
        let began = Instant::now();
        let Reached { connection, is_warm } = reached;
        let answer = ask_on(&connection, seed, kind.clone(), patience).await;
        if answer.is_ok() || !is_warm || connection.close_reason().is_none() {
            return answer;
        }
        let fresh = self.reach_seed(seed).await?.connection;
        ask_on(&fresh, seed, kind, patience.saturating_sub(began.elapsed())).await
    }

    /// The connection to a peer whose certificate says that it is a seed: nobody else is shown a client's
    /// credential, whatever the scheduler says.
    async fn reach_seed(&self, seed: &PeerId) -> Result<Reached, CallError> {
        let reached = self.pool.reach(seed).await?;
        match self.pool.admit(&reached.connection) {
            Ok(member) if member.identity.role == Role::Seed => Ok(reached),
            Ok(Member { identity, .. }) => Err(CallError::Refused(format!("{identity} is no seed"))),
            Err(reason) => Err(CallError::Refused(reason)),
        }
    }

    pub(super) async fn open(
        &self,
        peer: &PeerId,
        kind: request::Kind,
    ) -> Result<(SendStream, Incoming), CallError> {
        let connection = self.pool.connection(peer).await?;
        open_on(&connection, peer, kind).await
    }
}

async fn open_on(
    connection: &Connection,
    peer: &PeerId,
    kind: request::Kind,
) -> Result<(SendStream, Incoming), CallError> {
    let (mut send, receive) = connection.open_bi().await.map_err(|error| lost(peer, &error))?;
    let request = Request { protocol: PROTOCOL, kind: Some(kind) };
    send.write_chunk(frame::encode(&request)).await.map_err(|error| lost(peer, &error))?;
    Ok((send, Incoming::new(receive)))
}

/// A request of which all is said, and the head of its answer.
async fn ask_on(
    connection: &Connection,
    peer: &PeerId,
    kind: request::Kind,
    patience: Duration,
) -> Result<(Response, Incoming), CallError> {
    let (mut send, mut answer) = open_on(connection, peer, kind).await?;
    // A stream that is gone shows on its other half.
    let _ = send.finish();
    let header = answer.header::<Response>(patience).await?;
    Ok((header, answer))
}

async fn upload(mut send: SendStream, mut body: BodyStream) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return cut(&mut send) };
        if let Ok(data) = frame.into_data()
            && send.write_chunk(data).await.is_err()
        {
            return;
        }
    }
    // A stream that is gone shows on its other half.
    let _ = send.finish();
}

fn check(header: Response) -> Result<Response, CallError> {
    match header.status() {
        Status::Ok => Ok(header),
        Status::UpstreamUnknown => Err(CallError::UpstreamUnknown(header.detail)),
        Status::UpstreamFailed => Err(CallError::UpstreamFailed(Told::of(header))),
        Status::Unknown | Status::NotHeld | Status::Busy | Status::Refused => {
            Err(CallError::Refused(header.detail))
        }
    }
}

fn lost(peer: &PeerId, error: &dyn std::fmt::Display) -> CallError {
    CallError::Lost { peer: peer.clone(), reason: error.to_string() }
}

/// Why another peer gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection to {peer} was lost: {reason}")]
    Lost { peer: PeerId, reason: String },
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Head(#[from] BadHead),
    /// A body ended before it should.
    #[error("its body was cut: {0:?}")]
    Cut(FetchError),
    /// The other side does not do that, for this caller.
    #[error("refused: {0}")]
    Refused(String),
    /// The seed does not know the registry.
    #[error("{0}")]
    UpstreamUnknown(String),
    /// The seed could not reach the registry.
    #[error("{}", .0.detail)]
    UpstreamFailed(Told),
}

/// What a seed says of a registry that failed it.
#[derive(Debug)]
pub(crate) struct Told {
    /// For the client.
    pub(crate) status: u16,
    pub(crate) retry_after: Option<HeaderValue>,
    /// The blob's size, if it was asked for with another one.
    pub(crate) other_size: Option<u64>,
    pub(crate) detail: String,
}

impl Told {
    fn of(header: Response) -> Self {
        let head = head_from_wire(header.head.as_ref()).ok();
        let retry_after = head.as_ref().and_then(|head| head.headers().get(RETRY_AFTER).cloned());
        let status = head.map_or(502, |head| head.status().as_u16());
        Self { status, retry_after, other_size: header.other_size, detail: header.detail }
    }
}

impl CallError {
    /// Whether another seed may do better.
    pub(crate) fn is_seeds_own(&self) -> bool {
        match self {
            Self::Dial(_) | Self::Lost { .. } | Self::Header(_) | Self::Cut(_) | Self::Refused(_) => true,
            Self::Head(_) | Self::UpstreamUnknown(_) | Self::UpstreamFailed(_) => false,
        }
    }
}
