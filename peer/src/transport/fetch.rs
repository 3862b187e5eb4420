//! Asking another peer for a piece, whoever chooses it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_peer_core::{FetchError, Patience};
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{PieceRun, Response, Take, request};
use flotilla_proto::{Digest, Layout, Origins, PeerId, PieceHash, PieceSet};
use tokio::time::{Instant, timeout};

use super::pacer::Pacer;
use super::stream::{HeaderError, Incoming};
use super::{CallError, Transport, runs};

/// A piece as its parent sent it. The caller verifies it.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    /// The registries that gave it, as the parent says.
    pub(crate) origins: Origins,
    /// From the request to the answer's header.
    pub(crate) first_byte: Duration,
}

/// A piece that a parent chose, and has begun to send.
pub(crate) struct Chosen {
    pub(crate) piece: u32,
    /// As the parent says.
    pub(crate) hash: PieceHash,
    origins: Origins,
    first_byte: Duration,
    len: u32,
    answer: Incoming,
    receiving: Arc<Pacer>,
}

impl Transport {
    /// Fetches one piece from a parent into one buffer. `picked` says that this peer chose
    /// both by itself.
    ///
    /// # Errors
    ///
    /// As soon as the parent refuses, or `patience` with it is at its end.
    pub(crate) async fn fetch_piece(
        &self,
        parent: &PeerId,
        (digest, layout): (Digest, Layout),
        piece: u32,
        picked: bool,
        patience: Patience,
    ) -> Result<Received, FetchError> {
        let run = PieceRun { digest: digest.into(), first: piece, count: 1, picked };
        let (header, answer, first_byte) = self.ask(parent, request::Kind::Pieces(run), patience).await?;
        let len = layout.piece_size(piece);
        self.receiving.pass(len).await;
        let bytes = gather(answer, len as usize, patience).await?;
        Ok(Received { bytes, origins: Origins::told(&header.origins), first_byte })
    }

    /// Asks a parent for a piece of its choice among those that are lacking.
    ///
    /// # Errors
    ///
    /// As soon as the parent refuses or chooses something else, or `patience` with it is at
    /// its end.
    pub(crate) async fn take_piece(
        &self,
        parent: &PeerId,
        (digest, layout): (Digest, Layout),
        lacking: &PieceSet,
        patience: Patience,
    ) -> Result<Chosen, FetchError> {
        let mut lacking_runs = runs::to_wire(lacking);
        lacking_runs.truncate(runs::MAX_RUNS);
        let take = Take { digest: digest.into(), lacking: lacking_runs };
        let (header, answer, first_byte) = self.ask(parent, request::Kind::Take(take), patience).await?;
        let hash: [u8; PieceHash::LEN] = header.hash[..].try_into().map_err(|_| FetchError::Corrupt)?;
        let piece = header.piece;
        if !lacking.contains(piece) {
            return Err(FetchError::Corrupt);
        }
        let len = layout.piece_size(piece);
        Ok(Chosen {
            piece,
            hash: PieceHash::from_bytes(hash),
            origins: Origins::told(&header.origins),
            first_byte,
            len,
            answer,
            receiving: self.receiving.clone(),
        })
    }

    /// One request, and the header of its answer if that is that something follows.
    async fn ask(
        &self,
        parent: &PeerId,
        kind: request::Kind,
        patience: Patience,
    ) -> Result<(Response, Incoming, Duration), FetchError> {
        let begun_at = Instant::now();
        let ask = async {
            let (mut send, mut answer) = self.open(parent, kind).await?;
            // A stream that is gone shows on its other half.
            let _ = send.finish();
            let header = answer.header::<Response>(patience.stall).await?;
            Ok::<_, CallError>((header, answer))
        };
        let (header, answer) = ask.await.map_err(|error| fetch_error(&error))?;
        match header.status() {
            Status::Ok => Ok((header, answer, begun_at.elapsed())),
            Status::Busy => Err(FetchError::Busy),
            Status::NotHeld | Status::Unknown => Err(FetchError::NotHeld),
            Status::Refused | Status::UpstreamUnknown | Status::UpstreamFailed => Err(FetchError::NotHeld),
        }
    }
}

impl Chosen {
    /// The piece's bytes.
    ///
    /// # Errors
    ///
    /// As soon as `patience` with the parent is at its end, or it cuts the piece short.
    pub(crate) async fn receive(self, patience: Patience) -> Result<Received, FetchError> {
        self.receiving.pass(self.len).await;
        let bytes = gather(self.answer, self.len as usize, patience).await?;
        Ok(Received { bytes, origins: self.origins, first_byte: self.first_byte })
    }
}

/// The piece's bytes, copied once from packets into one buffer: hashing it whole costs a
/// third of hashing packet by packet.
pub(super) async fn gather(
    mut answer: Incoming,
    len: usize,
    patience: Patience,
) -> Result<Bytes, FetchError> {
    let mut piece = BytesMut::with_capacity(len);
    let mut chunks: [Bytes; CHUNKS] = Default::default();
    let mut pace = Pace { patience, since: Instant::now(), bytes: 0 };
    while piece.len() < len {
        let next = timeout(patience.stall, answer.chunks(&mut chunks));
        match next.await.map_err(|_| FetchError::Stalled)? {
            Ok(Some(count)) => {
                let before = piece.len();
                for chunk in chunks[..count].iter_mut().map(std::mem::take) {
                    if chunk.len() > len - piece.len() {
                        return Err(FetchError::Corrupt);
                    }
                    piece.extend_from_slice(&chunk);
                }
                if pace.is_too_slow(piece.len() - before) {
                    return Err(FetchError::Stalled);
                }
            }
            // The parent cut it short: it lost the piece meanwhile.
            Ok(None) | Err(quinn::ReadError::Reset(_)) => return Err(FetchError::NotHeld),
            Err(_) => return Err(FetchError::Unreachable),
        }
    }
    Ok(piece.freeze())
}

/// Packets' worth that are taken in at once.
const CHUNKS: usize = 32;

/// Whether bytes come as fast as they should, judged after each stretch as long as a stall.
struct Pace {
    patience: Patience,
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn is_too_slow(&mut self, more: usize) -> bool {
        self.bytes += more;
        let stretch = self.since.elapsed();
        if stretch < self.patience.stall {
            return false;
        }
        let least = u128::from(self.patience.least_bytes_per_s) * stretch.as_millis() / 1000;
        let is_too_slow = (self.bytes as u128) < least;
        (self.since, self.bytes) = (Instant::now(), 0);
        is_too_slow
    }
}

fn fetch_error(error: &CallError) -> FetchError {
    match error {
        CallError::Header(HeaderError::Stalled) => FetchError::Stalled,
        CallError::Cut(error) => *error,
        CallError::Header(HeaderError::Cut | HeaderError::Frame(_) | HeaderError::Read(_))
        | CallError::Dial(_)
        | CallError::Lost { .. }
        | CallError::Head(_)
        | CallError::Refused(_)
        | CallError::UpstreamUnknown(_)
        | CallError::UpstreamFailed(_) => FetchError::Unreachable,
    }
}
