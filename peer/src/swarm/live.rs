//! A blob as its readers see it: which pieces may be read, and how it ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use flotilla_peer_core::Failure;
use flotilla_proto::{Digest, Layout, PieceSet};
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
    released: PieceSet,
    complete: bool,
    failure: Option<Failure>,
}

impl Live {
    /// A blob of which these pieces are on disk. Unless it is complete, its last piece is
    /// not released.
    pub(crate) fn new(digest: Digest, layout: Layout, held: PieceSet, complete: bool) -> Self {
        let mut released = held.clone();
        if !complete && let Some(last) = layout.last_piece() {
            released.remove(last);
        }
        let found = AtomicU64::new(layout.bytes_in(&held));
        let state = watch::Sender::new(State { held, released, complete, failure: None });
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

    /// Waits until the blob is complete or its download has failed.
    pub(super) async fn ended(&self) {
        // A failure ends it as well as any.
        let _ = self.wait(|state| state.complete).await;
    }

    async fn wait(&self, ready: impl Fn(&State) -> bool) -> Result<(), Failure> {
        let mut changes = self.state.subscribe();
        let state = changes.wait_for(|state| ready(state) || state.failure.is_some()).await;
        let state = state.expect("the sender lives in self");
        if ready(&state) { Ok(()) } else { Err(state.failure.clone().expect("waited for")) }
    }

    pub(super) fn hold(&self, piece: u32) {
        self.state.send_if_modified(|state| state.held.insert(piece));
    }

    pub(super) fn release(&self, piece: u32) {
        self.state.send_if_modified(|state| state.released.insert(piece));
    }

    /// The piece on disk is not what it was.
    pub(super) fn lose(&self, piece: u32) {
        self.state.send_modify(|state| {
            state.held.remove(piece);
            state.released.remove(piece);
            state.complete = false;
        });
    }

    pub(super) fn complete(&self) {
        self.state.send_modify(|state| {
            state.complete = true;
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
