//! A blob's bytes on their way to one client: each piece read from disk and verified just before it goes.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::{Digest, PieceHash};
use tokio::sync::mpsc;

use super::flight::{Account, Content, Held};
use super::parts::Selected;
use super::pursuit::{Lost, Pursuit};
use crate::source::BoxError;
use crate::store::{BlobFile, ReadPieceError, Store};
use crate::swarm::Swarm;

type Sender = mpsc::Sender<Result<Bytes, BoxError>>;

/// A blob's bytes on their way to one client.
pub(super) struct BlobBody {
    pub(super) store: Store,
    pub(super) swarm: Swarm,
    /// While it is open, the blob is not evicted.
    pub(super) file: Arc<BlobFile>,
    pub(super) account: Arc<Account>,
    /// Room for the first piece, if it was taken already.
    pub(super) held: Option<Held>,
    pub(super) pursuit: Pursuit,
    pub(super) selected: Selected,
    /// The piece that is waited for before any goes out, if it is not here yet.
    pub(super) late: Option<u32>,
    /// The piece that was read last: several parts may lie in it.
    pub(super) last: Option<(u32, Bytes)>,
    /// The pieces that went out, and what they hash to.
    pub(super) sent: Vec<(u32, PieceHash)>,
    /// Where the last part ends, once the first is begun.
    pub(super) end: Option<u64>,
}

impl BlobBody {
    /// Sends piece after piece, each read from disk and verified just before. A body that
    /// cannot go on ends with an error, so that the client sees a cut and not an end.
    pub(super) async fn send(mut self, sender: Sender) {
        if let Some(first) = self.late
            && let Err(lost) = self.wait_late(first).await
        {
            // A client that is gone needs no reason.
            let _ = sender.send(Err(lost)).await;
            return;
        }
        let selected = std::mem::take(&mut self.selected);
        self.end = selected.parts.last().map(|part| part.bytes.end);
        for (index, part) in selected.parts.into_iter().enumerate() {
            if index > 0 {
                let first = self.pursuit.layout().piece_at(part.bytes.start);
                self.pursuit.read_on_at(first).await;
            }
            let is_open = send_text(&sender, part.head).await;
            if !is_open || !self.send_part(&sender, part.bytes, index > 0).await {
                return;
            }
        }
        send_text(&sender, selected.tail).await;
    }

    /// Sends one run of bytes; `false` if nothing more is to follow.
    async fn send_part(&mut self, sender: &Sender, bytes: Range<u64>, mut has_sent: bool) -> bool {
        let layout = self.pursuit.layout();
        for piece in layout.pieces_of(&bytes) {
            let whole = layout.piece_range(piece);
            let from = bytes.start.max(whole.start) - whole.start;
            let to = bytes.end.min(whole.end) - whole.start;
            let within = |offset: u64| usize::try_from(offset).expect("within a piece");
            let is_last = self.end == Some(whole.start + to);
            // One piece is written, and one waits for it: a third would only fill memory.
            let Ok(place) = sender.reserve().await else { return false };
            let chunk = self.chunk(piece, has_sent, is_last).await;
            let chunk = chunk.map(|bytes| bytes.slice(within(from)..within(to)));
            has_sent = true;
            let ended = chunk.is_err();
            place.send(chunk);
            if ended {
                return false;
            }
        }
        true
    }

    async fn wait_for(&mut self, piece: u32, has_sent: bool) -> Result<(), BoxError> {
        self.wait(piece, has_sent).await?;
        if self.store.is_current(&self.file) {
            return Ok(());
        }
        // What came was void and comes anew.
        if has_sent {
            let digest = self.file.digest();
            let last = self.pursuit.want_whole().await.map_err(|lost| lost.reason(digest))?;
            self.wait(last, has_sent).await?;
        }
        self.open_again().await
    }

    /// Waits as long as pieces come: this one may be shown with the last of them only.
    async fn wait(&mut self, piece: u32, has_sent: bool) -> Result<(), BoxError> {
        loop {
            let (held_count, deadline) = (self.pursuit.live().held_count(), Instant::now() + BODY_PATIENCE);
            match self.pursuit.released(piece, deadline, has_sent).await {
                Ok(()) => return Ok(()),
                Err(Lost::Late) if self.pursuit.live().held_count() > held_count => {}
                Err(lost) => return Err(lost.reason(self.file.digest()).into()),
            }
        }
    }

    /// Opens what is here now, of which what was sent must be a part.
    async fn open_again(&mut self) -> Result<(), BoxError> {
        let digest = self.file.digest();
        self.file = self.store.begin(digest, self.pursuit.layout()).await?;
        if self.sent.iter().any(|(piece, hash)| self.file.hash_of(*piece) != Some(*hash)) {
            return Err(format!("other bytes of {digest} were sent before it was found right").into());
        }
        Ok(())
    }

    /// Waits for what was not here when the headers went out. What was opened before may have been purged.
    async fn wait_late(&mut self, piece: u32) -> Result<(), BoxError> {
        self.wait(piece, false).await?;
        self.open_again().await
    }

    /// The piece for the next chunk of the body.
    async fn chunk(&mut self, piece: u32, has_sent: bool, is_last: bool) -> Result<Bytes, BoxError> {
        // What was sent is not to keep its room while the next piece waits for some.
        self.last.take_if(|(last, _)| *last != piece);
        if is_last {
            self.wait_for(piece, has_sent).await?;
            if !has_sent {
                // What was here before may have been wrong, and another came.
                self.open_again().await?;
            }
        }
        self.piece(piece, has_sent).await
    }

    async fn piece(&mut self, piece: u32, has_sent: bool) -> Result<Bytes, BoxError> {
        if let Some((last, bytes)) = &self.last
            && *last == piece
        {
            return Ok(bytes.clone());
        }
        for _ in 0..READ_ATTEMPTS {
            self.wait_for(piece, has_sent).await?;
            match self.load(piece).await {
                // After it was read: what gave it is among what gave the blob.
                Ok(_) if !self.pursuit.may_show(&self.file) => {
                    let digest = self.file.digest();
                    let whole = self.pursuit.until_whole(Instant::now() + BODY_PATIENCE, has_sent).await;
                    whole.map_err(|lost| lost.reason(digest))?;
                    let deadline = Instant::now() + BODY_PATIENCE;
                    let delivered = self.pursuit.until_delivered(&self.store, deadline).await;
                    delivered.map_err(|lost| lost.reason(digest))?;
                    self.open_again().await?;
                }
                Ok(bytes) => {
                    self.sent.extend(self.file.hash_of(piece).map(|hash| (piece, hash)));
                    self.last = Some((piece, bytes.clone()));
                    return Ok(bytes);
                }
                // Not held: another reader of it has just found it damaged.
                Err(
                    ReadPieceError::Corrupt { digest, piece } | ReadPieceError::NotHeld { digest, piece },
                ) => {
                    self.repair(digest, piece).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(format!("piece {piece} of {} is damaged again and again", self.file.digest()).into())
    }

    /// The piece, and room for it among the answers under way: none but what it has, if it goes to somebody else just
    /// then.
    async fn load(&mut self, piece: u32) -> Result<Bytes, ReadPieceError> {
        let digest = self.file.digest();
        let hash = self.file.hash_of(piece).ok_or(ReadPieceError::NotHeld { digest, piece })?;
        let content = Content::Piece(hash);
        if let Some(bytes) = self.account.share(content) {
            self.held = None;
            return Ok(bytes);
        }
        let held = match self.held.take() {
            Some(held) => held,
            None => self.account.take(self.file.layout().piece_size(piece) as usize).await,
        };
        let bytes = self.store.read(&self.file, piece).await?;
        Ok(held.carry(content, bytes))
    }

    /// A damaged piece is fetched again while the client waits.
    async fn repair(&mut self, digest: Digest, piece: u32) -> Result<(), BoxError> {
        self.swarm.damaged(digest, piece).await;
        self.pursuit.want_again(piece).await.map_err(|lost| lost.reason(digest).into())
    }
}

/// Sends what stands between the parts of a blob; `false` if the client is gone.
async fn send_text(sender: &Sender, text: Bytes) -> bool {
    text.is_empty() || sender.send(Ok(text)).await.is_ok()
}

/// How long a client that has its headers waits for its next piece: a slow link may take minutes for one. A
/// registry that stands still is given up long before, by the seed that reads.
const BODY_PATIENCE: Duration = Duration::from_secs(900);

/// A disk that damages a piece three times in a row is broken.
const READ_ATTEMPTS: usize = 3;
