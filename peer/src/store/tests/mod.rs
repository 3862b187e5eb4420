//! The store's behaviour, through its handle. Each test has a folder of its own.

mod crash;
mod disk_full;
mod eviction;
mod model;
mod origins;
mod recovery;
mod tombstones;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_daemon::telemetry::Readiness;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

const KIB: u64 = 1 << 10;

#[tokio::test]
async fn pieces_are_held_across_a_reopen_without_shutdown() {
    let dir = TempDir::new().unwrap();
    let blob = TestBlob::new(1, 300 * KIB);
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        let file = store.begin(blob.digest, blob.layout).await.unwrap();
        blob.write(&store, &file, 0).await.unwrap();
        blob.write(&store, &file, 2).await.unwrap();
    }
    let (store, _evicted) = open(dir.path(), 1 << 20);
    assert_eq!(
        store.hashes(blob.digest).unwrap(),
        [(0, PieceHash::of(&blob.piece(0))), (2, PieceHash::of(&blob.piece(2)))]
    );
    let held = store.inventory().remove(0);
    assert_eq!((held.digest, held.layout, held.complete), (blob.digest, blob.layout, false));

    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    assert_eq!(store.read(&file, 2).await.unwrap(), blob.piece(2));
    assert!(matches!(store.read(&file, 1).await, Err(ReadPieceError::NotHeld { piece: 1, .. })));
}

#[tokio::test]
async fn a_complete_blob_lies_where_oci_tools_look_for_it() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let blob = TestBlob::new(1, 300 * KIB);
    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    blob.write(&store, &file, 0).await.unwrap();
    let early = store.complete(&file).await;
    assert!(matches!(early, Err(CompleteError::PiecesMissing { .. })), "{early:?}");

    blob.store_whole(&store).await;

    let whole: Vec<u8> = (0..3).flat_map(|piece| blob.piece(piece)).collect();
    assert_eq!(fs::read(complete_path(&dir, &blob)).unwrap(), whole);
    assert!(!partial_path(&dir, &blob).exists());
    assert!(store.inventory()[0].complete);
    store.complete(&file).await.unwrap();
}

#[tokio::test]
async fn a_flipped_byte_is_never_returned_and_its_piece_is_dropped() {
    let dir = TempDir::new().unwrap();
    let mut registry = Registry::default();
    let (store, _evicted) = Store::open(dir.path(), &quota(1 << 20), &mut registry).unwrap();
    let blob = TestBlob::new(1, 300 * KIB);
    blob.store_whole(&store).await;
    flip_byte(&complete_path(&dir, &blob), 128 * KIB);
    store.forget_recent();

    let file = store.open_blob(blob.digest).await.unwrap().unwrap();
    let read = store.read(&file, 1).await;
    assert!(matches!(read, Err(ReadPieceError::Corrupt { piece: 1, .. })), "{read:?}");

    assert!(matches!(store.read(&file, 1).await, Err(ReadPieceError::NotHeld { .. })));
    assert_eq!(store.read(&file, 0).await.unwrap(), blob.piece(0));
    let held = store.inventory().remove(0);
    assert!(!held.complete && !held.pieces.contains(1) && held.pieces.count() == 2);
    assert!(partial_path(&dir, &blob).exists() && !complete_path(&dir, &blob).exists());
    assert!(exposition(&registry).contains("flotilla_peer_store_corrupt_pieces_total 1"));
    drop((file, store));

    let (store, _evicted) = open(dir.path(), 1 << 20);
    assert_eq!(store.inventory(), [held]);
    blob.store_whole(&store).await;
    assert!(complete_path(&dir, &blob).exists());
}

#[tokio::test]
async fn a_truncated_file_is_corrupt_and_not_an_io_error() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let blob = TestBlob::new(1, 300 * KIB);
    let file = blob.store_whole(&store).await;
    File::options().write(true).open(complete_path(&dir, &blob)).unwrap().set_len(200 * KIB).unwrap();
    store.forget_recent();
    assert!(matches!(store.read(&file, 2).await, Err(ReadPieceError::Corrupt { .. })));
    assert!(store.read(&file, 0).await.is_ok());
}

#[tokio::test]
async fn a_purged_blob_can_still_be_read_by_who_has_it_open_and_not_be_written() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let blob = TestBlob::new(1, 300 * KIB);
    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    blob.write(&store, &file, 0).await.unwrap();

    assert!(store.purge(blob.digest, None).await);
    assert!(!store.purge(blob.digest, None).await);

    assert!(!partial_path(&dir, &blob).exists());
    assert_eq!(store.read(&file, 0).await.unwrap(), blob.piece(0));
    assert!(matches!(blob.write(&store, &file, 1).await, Err(WriteError::Gone { .. })));
    assert!(matches!(store.complete(&file).await, Err(CompleteError::Gone { .. })));

    let anew = store.begin(blob.digest, blob.layout).await.unwrap();
    assert!(anew.pieces().is_empty());
    assert!(matches!(blob.write(&store, &file, 1).await, Err(WriteError::Gone { .. })));
    blob.write(&store, &anew, 1).await.unwrap();
    drop((anew, file, store));
    let (store, _evicted) = open(dir.path(), 1 << 20);
    assert_eq!(store.hashes(blob.digest).unwrap().len(), 1);
}

#[tokio::test]
async fn another_hash_for_a_held_piece_is_refused_and_the_held_one_stays() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let (blob, liar) = (TestBlob::new(1, 300 * KIB), TestBlob::new(2, 300 * KIB));
    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    blob.write(&store, &file, 0).await.unwrap();
    let refused = liar.write(&store, &file, 0).await;
    assert!(matches!(refused, Err(WriteError::Conflict { piece: 0, .. })), "{refused:?}");
    assert_eq!(store.read(&file, 0).await.unwrap(), blob.piece(0));
    blob.write(&store, &file, 0).await.unwrap();
}

#[tokio::test]
async fn of_many_writers_of_one_piece_one_content_wins_and_the_others_are_told() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 8 << 20);
    let (blob, liar) = (TestBlob::new(1, 4 << 20), TestBlob::new(2, 4 << 20));
    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    let mut writes = JoinSet::new();
    for piece in 0..blob.layout.piece_count() {
        for speaker in [&blob, &liar, &blob] {
            let (store, file, bytes) = (store.clone(), Arc::clone(&file), speaker.piece(piece));
            let hash = PieceHash::of(&bytes);
            writes.spawn(async move {
                (piece, hash, store.write(&file, piece, hash, bytes, Origins::unknown(), false).await)
            });
        }
    }
    while let Some(written) = writes.join_next().await {
        let (piece, hash, result) = written.unwrap();
        match result {
            Ok(()) => assert_eq!(file.hash_of(piece), Some(hash)),
            Err(WriteError::Conflict { .. }) => assert_ne!(file.hash_of(piece), Some(hash)),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(file.pieces().is_full());
    for piece in 0..blob.layout.piece_count() {
        store.read(&file, piece).await.unwrap();
    }
}

#[tokio::test]
async fn a_size_that_no_piece_bears_out_makes_way_for_another() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let blob = TestBlob::new(1, 300 * KIB);
    let lie = store.begin(blob.digest, Layout::of(7).unwrap()).await.unwrap();
    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    blob.write(&store, &file, 0).await.unwrap();
    let late = Bytes::from_static(b"7 bytes");
    store.write(&lie, 0, PieceHash::of(&late), late, Origins::unknown(), false).await.unwrap_err();
    assert_eq!(store.read(&file, 0).await.unwrap(), blob.piece(0));
}

#[tokio::test]
async fn a_blob_that_lost_its_only_piece_makes_way_for_another_size() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let blob = TestBlob::new(1, 300 * KIB);
    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    blob.write(&store, &file, 1).await.unwrap();
    flip_byte(&partial_path(&dir, &blob), 128 * KIB);
    store.forget_recent();
    assert!(matches!(store.read(&file, 1).await, Err(ReadPieceError::Corrupt { .. })));
    let other = store.begin(blob.digest, Layout::of(7).unwrap()).await.unwrap();
    let bytes = Bytes::from_static(b"7 bytes");
    store.write(&other, 0, PieceHash::of(&bytes), bytes, Origins::unknown(), false).await.unwrap();
    assert!(matches!(blob.write(&store, &file, 0).await, Err(WriteError::Gone { .. })));
}

#[tokio::test]
async fn what_does_not_fit_the_blob_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let blob = TestBlob::new(1, 300 * KIB);
    let empty = store.begin(Digest::of(b""), Layout::of(0).unwrap()).await;
    assert!(matches!(empty, Err(BeginError::Empty)));

    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    blob.write(&store, &file, 0).await.unwrap();
    let other_size = store.begin(blob.digest, Layout::of(7).unwrap()).await.unwrap_err().to_string();
    assert_eq!(other_size, format!("blob {} has 307200 bytes here, not 7", blob.digest.short()));
    let bytes = blob.piece(2);
    let hash = PieceHash::of(&bytes);
    assert!(matches!(
        store.write(&file, 3, hash, bytes.clone(), Origins::unknown(), false).await,
        Err(WriteError::NoSuchPiece { piece: 3, .. })
    ));
    let short = store.write(&file, 1, hash, bytes, Origins::unknown(), false).await;
    assert!(
        matches!(short, Err(WriteError::WrongLength { expected: 131_072, len: 45_056, .. })),
        "{short:?}"
    );
    assert!(matches!(store.read(&file, 3).await, Err(ReadPieceError::NotHeld { .. })));
}

#[tokio::test]
async fn what_only_peers_vouch_for_gives_way_until_the_blob_is_complete_and_outlives_a_start() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let blob = TestBlob::new(1, 300 * KIB);
    let other = Bytes::from(vec![7; 128 << 10]);
    let put = async |store: &Store, bytes: &Bytes, hearsay| {
        let file = store.begin(blob.digest, blob.layout).await.unwrap();
        store.write(&file, 0, PieceHash::of(bytes), bytes.clone(), Origins::unknown(), hearsay).await
    };
    put(&store, &other, true).await.unwrap();
    drop(store);

    let (store, _evicted) = open(dir.path(), 1 << 20);
    assert_eq!(store.is_hearsay(blob.digest, 0), Some(true));
    assert_eq!(store.hashes(blob.digest).unwrap(), [], "they are not told");
    put(&store, &blob.piece(0), true).await.unwrap();
    put(&store, &blob.piece(0), false).await.unwrap();
    assert_eq!(store.is_hearsay(blob.digest, 0), Some(false));
    assert!(matches!(put(&store, &other, true).await, Err(WriteError::Conflict { piece: 0, .. })));

    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    for piece in 1..blob.layout.piece_count() {
        let bytes = blob.piece(piece);
        let hash = PieceHash::of(&bytes);
        store.write(&file, piece, hash, bytes, Origins::unknown(), true).await.unwrap();
    }
    store.complete(&file).await.unwrap();
    assert_eq!(store.is_hearsay(blob.digest, 1), Some(false), "the whole is right");
    store.forget_recent();
    assert_eq!(store.read(&file, 0).await.unwrap(), blob.piece(0));
}

#[test]
fn the_quota_reads_as_people_write_it_and_unknown_keys_are_refused() {
    let config: StoreConfig = toml::from_str("quota = \"4 GiB\"").unwrap();
    assert_eq!(config, quota(4 << 30));
    assert_eq!(toml::from_str::<StoreConfig>("").unwrap(), quota(50 << 30));
    assert!(toml::from_str::<StoreConfig>("quotta = \"4 GiB\"").unwrap_err().to_string().contains("quotta"));
}

/// A blob whose bytes follow from its seed. Its digest does too: the store never looks at the whole.
struct TestBlob {
    seed: u64,
    digest: Digest,
    layout: Layout,
}

impl TestBlob {
    fn new(seed: u64, size: u64) -> Self {
        let digest = Digest::of(&seed.to_le_bytes());
        Self { seed, digest, layout: Layout::of(size).unwrap() }
    }

    fn piece(&self, piece: u32) -> Bytes {
        let mut state = (self.seed << 32 | u64::from(piece)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let words = self.layout.piece_size(piece).div_ceil(8);
        let mut bytes: Vec<u8> = (0..words)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        bytes.truncate(self.layout.piece_size(piece) as usize);
        bytes.into()
    }

    async fn write(&self, store: &Store, file: &Arc<BlobFile>, piece: u32) -> Result<(), WriteError> {
        let bytes = self.piece(piece);
        store.write(file, piece, PieceHash::of(&bytes), bytes, Origins::unknown(), false).await
    }

    async fn store_whole(&self, store: &Store) -> Arc<BlobFile> {
        let file = store.begin(self.digest, self.layout).await.unwrap();
        for piece in 0..self.layout.piece_count() {
            self.write(store, &file, piece).await.unwrap();
        }
        store.complete(&file).await.unwrap();
        file
    }
}

fn quota(bytes: u64) -> StoreConfig {
    StoreConfig { quota: ByteSize(bytes) }
}

fn open(dir: &Path, quota_bytes: u64) -> (Store, mpsc::Receiver<Digest>) {
    Store::open(dir, &quota(quota_bytes), &mut Registry::default()).unwrap()
}

fn partial_path(dir: &TempDir, blob: &TestBlob) -> PathBuf {
    dir.path().join("partial").join(blob.digest.hex())
}

fn complete_path(dir: &TempDir, blob: &TestBlob) -> PathBuf {
    dir.path().join("blobs/sha256").join(blob.digest.hex())
}

fn flip_byte(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

fn exposition(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

/// Runs one test of this binary again, in a process of its own, with `variable` set to `dir`. `wrapper`
/// is a program and its arguments that end by executing what follows them.
fn reexecute(test: &str, variable: &str, dir: &Path, wrapper: &[&str]) -> std::process::Command {
    let binary = std::env::current_exe().unwrap();
    let mut words = wrapper.iter().map(|word| (*word).into()).chain([binary.into_os_string()]);
    let mut command = std::process::Command::new(words.next().expect("the binary at least"));
    command.args(words).args(["--exact", test, "--nocapture", "--test-threads=1"]).env(variable, dir);
    command
}
