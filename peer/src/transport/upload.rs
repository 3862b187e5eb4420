//! Sending pieces to other peers, when the core says so.

use std::time::Duration;

use bytes::Bytes;
use flotilla_peer_core::{UploadRefusal, UploadWish};
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{PieceRun, Response, Take};
use flotilla_proto::{Digest, PeerId, PieceHash, Run, frame};
use quinn::{SendStream, WriteError};
use tokio::time::timeout;

use super::runs;
use super::serve::{AnswerError, Services, say};
use crate::store::ReadPieceError;
use crate::swarm::Turn;

/// A piece whose turn has come.
struct Ready {
    turn: Turn,
    hash: PieceHash,
    bytes: Bytes,
    origins: Vec<u64>,
}

impl Services {
    /// Sends the pieces of a run, each at its turn.
    pub(super) async fn pieces(
        &self,
        send: &mut SendStream,
        child: &PeerId,
        run: &PieceRun,
    ) -> Result<(), AnswerError> {
        let Ok(digest) = Digest::try_from(&run.digest) else {
            return say(send, Status::Refused, "a digest has 32 bytes").await;
        };
        let (mut is_begun, mut told) = (false, Vec::new());
        let last = run.count.checked_sub(1).map(|ahead| run.first.saturating_add(ahead));
        for piece in (Run { first: run.first, count: run.count }).pieces() {
            let wish = UploadWish::Piece { piece, picked: run.picked };
            let ready = match self.ready(child, digest, wish).await {
                Ok(ready) => ready,
                Err(why) if is_begun => return Err(AnswerError::Refused(why)),
                Err(why) => return say(send, status(why), "").await,
            };
            if !std::mem::replace(&mut is_begun, true) {
                let (status, origins) = (Status::Ok.into(), ready.origins.clone());
                told.clone_from(&origins);
                send.write_chunk(frame::encode(&Response { status, origins, ..Default::default() })).await?;
            }
            if ready.origins.iter().any(|origin| !told.contains(origin)) {
                // Another registry gave a part meanwhile, and the child was not told.
                return Err(AnswerError::Refused(UploadRefusal::NotHeld));
            }
            self.send_piece(send, ready, Some(piece) == last).await?;
        }
        if is_begun { Ok(()) } else { say(send, Status::NotHeld, "").await }
    }

    /// Sends a piece that the child lacks, of this peer's choice.
    pub(super) async fn take(
        &self,
        send: &mut SendStream,
        child: &PeerId,
        take: &Take,
    ) -> Result<(), AnswerError> {
        let Ok(digest) = Digest::try_from(&take.digest) else {
            return say(send, Status::Refused, "a digest has 32 bytes").await;
        };
        let Some(live) = self.swarm.live(digest) else {
            return say(send, Status::NotHeld, "").await;
        };
        let Some(lacking) = runs::from_wire(live.layout().piece_count(), &take.lacking) else {
            return say(send, Status::Refused, "the runs make no set of pieces").await;
        };
        match self.ready(child, digest, UploadWish::Any { lacking }).await {
            Ok(ready) => {
                let hash = Bytes::copy_from_slice(ready.hash.as_bytes());
                let (status, piece) = (Status::Ok.into(), ready.turn.piece());
                let origins = ready.origins.clone();
                let header = Response { status, piece, hash, origins, ..Default::default() };
                send.write_chunk(frame::encode(&header)).await?;
                self.send_piece(send, ready, true).await
            }
            Err(why) => say(send, status(why), "").await,
        }
    }

    /// Waits for the turn, and reads the piece.
    async fn ready(&self, child: &PeerId, digest: Digest, wish: UploadWish) -> Result<Ready, UploadRefusal> {
        let turn = self.swarm.upload(child, digest, wish).await?;
        let piece = turn.piece();
        let Ok(Some(file)) = self.store.open_blob(digest).await else {
            return Err(UploadRefusal::NotHeld);
        };
        let hash = file.hash_of(piece).ok_or(UploadRefusal::NotHeld)?;
        match self.store.read(&file, piece).await {
            // Once it is read: what gave it is among them.
            Ok(bytes) => Ok(Ready { turn, hash, bytes, origins: file.origins().bits() }),
            Err(error) => {
                if let ReadPieceError::Corrupt { .. } = error {
                    self.swarm.damaged(digest, piece).await;
                }
                tracing::debug!(task = %digest.short(), piece, %error, "read a piece for another peer");
                Err(UploadRefusal::NotHeld)
            }
        }
    }

    /// Sends a piece. The turn lasts until the child has it: bytes that only wait in QUIC's send
    /// window are still to go over the link, and more of them at once would make each later. A
    /// child that does not take it in [`SENDING_PATIENCE`] loses its turn.
    async fn send_piece(
        &self,
        send: &mut SendStream,
        ready: Ready,
        is_last: bool,
    ) -> Result<(), AnswerError> {
        let sent = timeout(SENDING_PATIENCE, self.send_to_end(send, ready, is_last));
        sent.await.map_err(|_| AnswerError::TooSlow)?
    }

    async fn send_to_end(
        &self,
        send: &mut SendStream,
        ready: Ready,
        is_last: bool,
    ) -> Result<(), AnswerError> {
        self.uploaded_bytes.inc_by(ready.bytes.len() as u64);
        self.write(send, ready.bytes).await?;
        if is_last {
            // A stream that was finished before is not: it is finished here alone.
            let _ = send.finish();
            // A child that stops the stream, or is gone, has had what it wanted of it.
            let _ = send.stopped().await;
        }
        ready.turn.delivered();
        Ok(())
    }

    /// Hands a piece to QUIC, whole, or as fast as the node may send.
    pub(super) async fn write(&self, send: &mut SendStream, mut bytes: Bytes) -> Result<(), WriteError> {
        if !self.sending.is_limited() {
            return send.write_chunk(bytes).await;
        }
        while !bytes.is_empty() {
            let slice = bytes.split_to(bytes.len().min(SLICE));
            self.sending.pass(u32::try_from(slice.len()).expect("at most a slice")).await;
            send.write_chunk(slice).await?;
        }
        Ok(())
    }
}

fn status(why: UploadRefusal) -> Status {
    match why {
        UploadRefusal::Busy => Status::Busy,
        UploadRefusal::NotHeld => Status::NotHeld,
    }
}

/// Eight pieces that are sent at once, at the least bandwidth, each move on every 131 ms: a child
/// waits for 250 ms.
const SLICE: usize = 16 << 10;

/// The largest piece, 4 MiB, takes so long over half a Mbit/s.
const SENDING_PATIENCE: Duration = Duration::from_secs(60);
