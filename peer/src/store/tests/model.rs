//! Any sequence of commands against a plain model.
//!
//! After each step the store and the model agree on which pieces of which blobs are held and which blobs
//! are complete; they evict the same blobs in the same order; used bytes stay within the quota; each held
//! piece reads back as written; a reopen changes none of that.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Some of one piece, some of several; any two or three fit the quota, all do not.
const SIZES: [u64; 6] = [1, 100_000, 131_072, 131_073, 300_000, 400_000];
const QUOTA: u64 = 600_000;

#[derive(Debug, Clone)]
enum Step {
    Begin(usize),
    /// Whoever has the blob open lets it go.
    Close(usize),
    Write(usize, u32),
    Read(usize, u32),
    Complete(usize),
    Purge(usize),
    Touch(usize),
    Corrupt(usize, u32),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let blob = 0..SIZES.len();
    let piece = 0_u32..4;
    prop_oneof![
        4 => blob.clone().prop_map(Step::Begin),
        3 => blob.clone().prop_map(Step::Close),
        8 => (blob.clone(), piece.clone()).prop_map(|(blob, piece)| Step::Write(blob, piece)),
        3 => (blob.clone(), piece.clone()).prop_map(|(blob, piece)| Step::Read(blob, piece)),
        3 => blob.clone().prop_map(Step::Complete),
        1 => blob.clone().prop_map(Step::Purge),
        1 => blob.clone().prop_map(Step::Touch),
        1 => (blob, piece).prop_map(|(blob, piece)| Step::Corrupt(blob, piece)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(&step).await;
                world.check().await;
            }
            world.reopen();
            world.check().await;
        });
    }
}

/// What the model says of one blob of which something was held.
#[derive(Default)]
struct ModelBlob {
    pieces: BTreeSet<u32>,
    complete: bool,
}

/// The store, the model, and the blobs someone has open.
struct World {
    dir: TempDir,
    store: Option<(Store, mpsc::Receiver<Digest>)>,
    blobs: Vec<TestBlob>,
    file_by_blob: BTreeMap<usize, Arc<BlobFile>>,
    model: BTreeMap<usize, ModelBlob>,
    /// Least recently used first.
    use_order: Vec<usize>,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = Some(open(dir.path(), QUOTA));
        let blobs = SIZES.iter().zip(0..).map(|(size, seed)| TestBlob::new(seed, *size)).collect();
        Self { dir, store, blobs, file_by_blob: BTreeMap::new(), model: BTreeMap::new(), use_order: vec![] }
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Begin(blob) => self.begin(blob).await,
            Step::Close(blob) => drop(self.file_by_blob.remove(&blob)),
            Step::Write(blob, piece) => self.write(blob, piece).await,
            Step::Read(blob, piece) => self.read(blob, piece).await,
            Step::Complete(blob) => self.complete(blob).await,
            Step::Purge(blob) => {
                let was_there = self.store().purge(self.blobs[blob].digest, None).await;
                assert_eq!(was_there, self.model.contains_key(&blob));
                self.forget(blob);
                self.file_by_blob.remove(&blob);
            }
            Step::Touch(blob) => {
                self.store().touch(self.blobs[blob].digest);
                self.used(blob);
            }
            Step::Corrupt(blob, piece) => self.corrupt(blob, piece).await,
            Step::Reopen => self.reopen(),
        }
    }

    async fn begin(&mut self, blob: usize) {
        let TestBlob { digest, layout, .. } = self.blobs[blob];
        let begun = self.store().begin(digest, layout).await;
        let is_open = self.file_by_blob.contains_key(&blob);
        if !self.model.contains_key(&blob) && !is_open && self.victims(SIZES[blob]).is_none() {
            assert!(matches!(begun, Err(BeginError::NoRoom { .. })), "{begun:?}");
            return;
        }
        self.used(blob);
        self.file_by_blob.insert(blob, begun.unwrap());
        self.expect_evicted(&[]);
    }

    async fn write(&mut self, blob: usize, piece: u32) {
        let Some(file) = self.file_by_blob.get(&blob) else {
            return;
        };
        if piece >= file.layout().piece_count() {
            return;
        }
        let written = self.blobs[blob].write(self.store(), file, piece).await;
        if self.model.get(&blob).is_some_and(|model| model.pieces.contains(&piece)) {
            return written.unwrap();
        }
        let Some(victims) = self.victims(self.blobs[blob].layout.piece_size(piece).into()) else {
            assert!(matches!(written, Err(WriteError::NoRoom { .. })), "{written:?}");
            return self.expect_evicted(&[]);
        };
        written.unwrap();
        self.expect_evicted(&victims);
        self.model.entry(blob).or_default().pieces.insert(piece);
        self.used(blob);
    }

    fn expect_evicted(&mut self, victims: &[usize]) {
        for victim in victims {
            let evicted = self.store.as_mut().unwrap().1.try_recv();
            assert_eq!(evicted, Ok(self.blobs[*victim].digest));
            self.forget(*victim);
        }
        assert!(self.store.as_mut().unwrap().1.try_recv().is_err(), "evicted too much");
    }

    async fn read(&mut self, blob: usize, piece: u32) {
        let opened = self.store().open_blob(self.blobs[blob].digest).await.unwrap();
        assert_eq!(opened.is_some(), self.model.contains_key(&blob));
        let Some(file) = opened else {
            return;
        };
        self.used(blob);
        let read = self.store().read(&file, piece).await;
        if self.model[&blob].pieces.contains(&piece) {
            assert_eq!(read.unwrap(), self.blobs[blob].piece(piece));
        } else {
            assert!(matches!(read, Err(ReadPieceError::NotHeld { .. })), "{read:?}");
        }
    }

    async fn complete(&mut self, blob: usize) {
        let Some(file) = self.file_by_blob.get(&blob) else {
            return;
        };
        let completed = self.store().complete(file).await;
        let mut begun = ModelBlob::default();
        let model = self.model.get_mut(&blob).unwrap_or(&mut begun);
        if model.pieces.len() < file.layout().piece_count() as usize {
            assert!(matches!(completed, Err(CompleteError::PiecesMissing { .. })), "{completed:?}");
            return;
        }
        completed.unwrap();
        let was_complete = std::mem::replace(&mut model.complete, true);
        if !was_complete {
            self.used(blob);
        }
    }

    /// Flips a byte of a held piece; the read that finds it drops the piece.
    async fn corrupt(&mut self, blob: usize, piece: u32) {
        let Some(model) = self.model.get_mut(&blob).filter(|model| model.pieces.contains(&piece)) else {
            return;
        };
        let test_blob = &self.blobs[blob];
        let path = if model.complete {
            complete_path(&self.dir, test_blob)
        } else {
            partial_path(&self.dir, test_blob)
        };
        flip_byte(&path, test_blob.layout.piece_range(piece).start);
        model.pieces.remove(&piece);
        model.complete = false;
        self.store().forget_recent();
        let file = self.store().open_blob(self.blobs[blob].digest).await.unwrap().unwrap();
        let read = self.store().read(&file, piece).await;
        assert!(matches!(read, Err(ReadPieceError::Corrupt { .. })), "{read:?}");
        self.used(blob);
    }

    fn reopen(&mut self) {
        self.file_by_blob.clear();
        let is_empty = |(blob, model): (&usize, &ModelBlob)| model.pieces.is_empty().then_some(*blob);
        for blob in self.model.iter().filter_map(is_empty).collect::<Vec<_>>() {
            self.forget(blob);
        }
        self.store = None;
        self.store = Some(open(self.dir.path(), QUOTA));
    }

    async fn check(&self) {
        let mut held: BTreeMap<Digest, HeldBlob> = BTreeMap::new();
        for blob in self.store().inventory() {
            held.insert(blob.digest, blob);
        }
        let mut used_bytes = 0;
        for (blob, model) in &self.model {
            used_bytes += self.bytes_of(*blob, model);
            let digest = self.blobs[*blob].digest;
            let hashes = self.store().hashes(digest).unwrap();
            let expected =
                model.pieces.iter().map(|piece| (*piece, PieceHash::of(&self.blobs[*blob].piece(*piece))));
            assert!(hashes.into_iter().eq(expected), "hashes of blob {blob}");
            let Some(found) = held.remove(&digest) else {
                assert!(model.pieces.is_empty(), "blob {blob} is not in the inventory");
                continue;
            };
            assert_eq!(found.complete, model.complete);
            assert!(found.pieces.iter().eq(model.pieces.iter().copied()));
        }
        assert!(held.is_empty(), "more is held than was written: {held:?}");
        assert!(used_bytes <= QUOTA);
    }

    /// The blobs that must go for `needed` bytes, as the plainest reading of the rule has it.
    fn victims(&self, needed: u64) -> Option<Vec<usize>> {
        let mut used_bytes: u64 = self.model.iter().map(|(blob, model)| self.bytes_of(*blob, model)).sum();
        let mut idle = self.use_order.iter().filter(|blob| !self.file_by_blob.contains_key(blob));
        let mut victims = Vec::new();
        while used_bytes + needed > QUOTA {
            let victim = *idle.next()?;
            used_bytes -= self.bytes_of(victim, &self.model[&victim]);
            victims.push(victim);
        }
        Some(victims)
    }

    fn bytes_of(&self, blob: usize, model: &ModelBlob) -> u64 {
        model.pieces.iter().map(|piece| u64::from(self.blobs[blob].layout.piece_size(*piece))).sum()
    }

    fn used(&mut self, blob: usize) {
        if self.model.contains_key(&blob) {
            self.use_order.retain(|other| *other != blob);
            self.use_order.push(blob);
        }
    }

    fn forget(&mut self, blob: usize) {
        self.model.remove(&blob);
        self.use_order.retain(|other| *other != blob);
    }

    fn store(&self) -> &Store {
        &self.store.as_ref().unwrap().0
    }
}
