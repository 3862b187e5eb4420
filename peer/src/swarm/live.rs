//! A blob as its readers see it: which pieces may be read, and how it ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use flotilla_proto::{Digest, Failure, Layout, PieceSet};
use tokio::sync::watch;

/// One blob that this peer holds or fetches. Written by the driver, read by clients' bodies.
#[derive(Debug)]
pub(crate) struct Live {
    digest: Digest,
    layout: Layout,
    state: watch::Sender<State>,
    /// Bytes found on disk that no client has asked for yet.
    found: AtomicU64,
    /// Where each client began to read. Held for one map operation.
    readers: Mutex<BTreeMap<u64, u32>>,
}

#[derive(Debug)]
struct State {
    held: PieceSet,
    /// Those of which only peers say what they hash to; none once it is complete.
    hearsay: PieceSet,
    released: PieceSet,
    complete: bool,
    failure: Option<Failure>,
    /// Whether it is forgotten, and what the disk held of it too, if that is void.
    gone: bool,
}

impl Live {
    /// A blob of which these pieces are on disk, some of them as hearsay. Unless it is complete, those and its last piece
    /// are not released.
    pub(crate) fn new(
        digest: Digest,
        layout: Layout,
        held: PieceSet,
        hearsay: PieceSet,
        complete: bool,
    ) -> Self {
        let mut released = if complete { held.clone() } else { held.difference(&hearsay) };
        if !complete && let Some(last) = layout.last_piece() {
            released.remove(last);
        }
        let found = AtomicU64::new(layout.bytes_in(&held));
        let state =
            watch::Sender::new(State { held, hearsay, released, complete, failure: None, gone: false });
        Self { digest, layout, state, found, readers: Mutex::default() }
    }

    /// The bytes that were on disk when the first client asked; 0 for every further one.
    pub(crate) fn claim_found(&self) -> u64 {
        self.found.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state.borrow().complete
    }

    /// Waits until clients may read the piece.
    ///
    /// # Errors
    ///
    /// If the download fails first.
    pub(crate) async fn released(&self, piece: u32) -> Result<(), Failure> {
        self.wait(|state| state.released.contains(piece)).await
    }

    /// Waits until the piece is on disk.
    ///
    /// # Errors
    ///
    /// If the download fails first.
    pub(crate) async fn held(&self, piece: u32) -> Result<(), Failure> {
        self.wait(|state| state.held.contains(piece)).await
    }

    /// Waits until pieces are on disk besides those in `known`; which ones.
    ///
    /// # Errors
    ///
    /// If the blob goes first.
    pub(crate) async fn held_besides(&self, known: &PieceSet) -> Result<PieceSet, Failure> {
        let mut changes = self.state.subscribe();
        let is_news = |state: &State| state.held.iter().any(|piece| !known.contains(piece));
        let state = changes.wait_for(|state| is_news(state) || state.failure.is_some()).await;
        let state = state.expect("the sender lives in self");
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let mut news = PieceSet::new(state.held.len());
        for piece in state.held.iter().filter(|piece| !known.contains(*piece)) {
            news.insert(piece);
        }
        Ok(news)
    }

    /// Waits until the blob is complete.
    ///
    /// # Errors
    ///
    /// If its download fails first.
    pub(crate) async fn ended(&self) -> Result<(), Failure> {
        self.wait(|state| state.complete).await
    }

    /// Waits until a piece is here, so that the size was seen and not only claimed; `false` if the
    /// download fails before.
    pub(super) async fn seen(&self) -> bool {
        self.wait(|state| !state.held.is_empty()).await.is_ok()
    }

    /// Whether its download failed: it is about to go.
    pub(super) fn has_failed(&self) -> bool {
        self.state.borrow().failure.is_some()
    }

    /// Waits until a blob that failed may be begun again.
    pub(super) async fn gone(&self) {
        let mut changes = self.state.subscribe();
        changes.wait_for(|state| state.gone).await.expect("the sender lives in self");
    }

    /// Who waits for it to go may begin again.
    pub(super) fn go(&self) {
        self.state.send_modify(|state| state.gone = true);
    }

    async fn wait(&self, ready: impl Fn(&State) -> bool) -> Result<(), Failure> {
        let mut changes = self.state.subscribe();
        let state = changes.wait_for(|state| ready(state) || state.failure.is_some()).await;
        let state = state.expect("the sender lives in self");
        if ready(&state) { Ok(()) } else { Err(state.failure.clone().expect("waited for")) }
    }

    /// Whether only peers say what a piece must hash to: clients see it once the whole is right.
    pub(crate) fn is_hearsay(&self, piece: u32) -> bool {
        self.state.borrow().hearsay.contains(piece)
    }

    /// How many pieces are on disk.
    pub(crate) fn held_count(&self) -> u32 {
        self.state.borrow().held.count()
    }

    pub(super) fn hold(&self, piece: u32, hearsay: bool) {
        self.state.send_if_modified(|state| {
            let is_other = if hearsay { state.hearsay.insert(piece) } else { state.hearsay.remove(piece) };
            state.held.insert(piece) || is_other
        });
    }

    pub(super) fn release(&self, piece: u32) {
        self.state.send_if_modified(|state| state.released.insert(piece));
    }

    /// Whether these pieces may be read, or all of it.
    pub(crate) fn holds(&self, pieces: &PieceSet) -> bool {
        let state = self.state.borrow();
        state.complete || state.held.is_superset(pieces) && !state.hearsay.intersects(pieces)
    }

    /// The piece on disk is not what it was.
    pub(super) fn lose(&self, piece: u32) {
        self.state.send_modify(|state| {
            state.held.remove(piece);
            state.hearsay.remove(piece);
            state.released.remove(piece);
            state.complete = false;
        });
    }

    pub(super) fn complete(&self) {
        self.state.send_modify(|state| {
            state.complete = true;
            state.hearsay = PieceSet::new(state.held.len());
            state.released.insert_all();
        });
    }

    pub(super) fn fail(&self, failure: Failure) {
        self.state.send_modify(|state| {
            state.failure.get_or_insert(failure);
        });
    }

    /// A client begins to read at a piece. Where the foremost client reads, if that changed.
    pub(super) fn join_reader(&self, reader: u64, piece: u32) -> Option<u32> {
        self.change_readers(|readers| {
            readers.insert(reader, piece);
        })
    }

    /// A client ends. Where the foremost other reads, if that changed.
    pub(super) fn leave_reader(&self, reader: u64) -> Option<u32> {
        self.change_readers(|readers| {
            readers.remove(&reader);
        })
    }

    fn change_readers(&self, change: impl FnOnce(&mut BTreeMap<u64, u32>)) -> Option<u32> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let before = readers.values().min().copied();
        change(&mut readers);
        let after = readers.values().min().copied();
        after.filter(|_| after != before)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Three pieces.
    fn layout() -> Layout {
        Layout::of(3 * 128 * 1024).unwrap()
    }

    fn live(held: &[u32], complete: bool) -> Live {
        let mut pieces = PieceSet::new(3);
        for piece in held {
            pieces.insert(*piece);
        }
        Live::new(Digest::of(b"blob"), layout(), pieces, PieceSet::new(3), complete)
    }

    fn failure(message: &str) -> Failure {
        Failure::unavailable(message.into())
    }

    #[test]
    fn the_last_piece_is_kept_back_until_the_whole_is_right() {
        let live = live(&[0, 1, 2], false);
        assert!(live.released(1).now_or_never().is_some());
        assert!(live.held(2).now_or_never().is_some());
        assert!(live.released(2).now_or_never().is_none());
        live.complete();
        assert_eq!(live.released(2).now_or_never(), Some(Ok(())));
        assert!(live.is_complete());
    }

    #[tokio::test]
    async fn readers_wake_as_their_piece_is_released() {
        let live = live(&[], false);
        let release = async {
            live.hold(1, false);
            live.release(1);
        };
        let (read, ()) = tokio::join!(live.released(1), release);
        assert_eq!(read, Ok(()));
        assert!(live.released(0).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_failure_ends_every_wait_with_its_first_reason_but_takes_nothing_back() {
        let live = live(&[0], false);
        let fail = async {
            live.fail(failure("first"));
            live.fail(failure("second"));
        };
        let (read, ended, ()) = tokio::join!(live.released(1), live.ended(), fail);
        assert_eq!(read.unwrap_err().message, "first");
        assert!(ended.is_err());
        assert_eq!(live.released(0).await, Ok(()));
    }

    #[test]
    fn a_piece_that_is_lost_is_waited_for_again() {
        let live = live(&[0, 1, 2], true);
        live.lose(1);
        assert!(!live.is_complete());
        assert!(live.released(1).now_or_never().is_none());
        assert!(live.held(1).now_or_never().is_none());
    }

    #[test]
    fn what_only_peers_vouch_for_is_hearsay_until_the_whole_is_right() {
        let mut hearsay = PieceSet::new(3);
        hearsay.insert(0);
        let live = Live::new(Digest::of(b"blob"), layout(), hearsay.clone(), hearsay, false);
        assert!(live.released(0).now_or_never().is_none(), "as it was found on disk");
        live.hold(1, true);
        live.hold(2, false);
        assert!(live.is_hearsay(0) && live.is_hearsay(1) && !live.holds(&PieceSet::full(3)));
        live.complete();
        assert!(!live.is_hearsay(1) && live.holds(&PieceSet::full(3)));
    }

    #[test]
    fn only_the_foremost_reader_counts() {
        let live = live(&[], false);
        assert_eq!(live.join_reader(1, 2), Some(2));
        assert_eq!(live.join_reader(2, 1), Some(1));
        assert_eq!(live.join_reader(3, 2), None);
        assert_eq!(live.leave_reader(3), None);
        assert_eq!(live.leave_reader(2), Some(2));
        assert_eq!(live.leave_reader(1), None);
    }

    #[test]
    fn what_was_found_is_claimed_once() {
        let live = live(&[0, 2], false);
        assert_eq!(live.claim_found(), 2 * 128 * 1024);
        assert_eq!(live.claim_found(), 0);
    }
}
