//! A disk that takes no more, in processes of their own.

use std::io::Write as _;
use std::process::Output;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::*;

/// Set in the process that runs a store on a full disk: the store's folder.
const VARIABLE: &str = "FLOTILLA_TEST_STORE_ON_FULL_DISK";

#[tokio::test]
async fn a_full_disk_refuses_by_name_and_loses_nothing_held() {
    if let Some(dir) = std::env::var_os(VARIABLE) {
        return fill_the_disk(Path::new(&dir)).await;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can mount a small disk");
        return;
    }
    let dir = TempDir::new().unwrap();
    let mount = r#"mount -t tmpfs -o size=24m none "$0" && exec "$@""#;
    let probe = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", mount])
        .arg(dir.path())
        .arg("true")
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: no small disk can be mounted here");
        return;
    }
    let wrapper = ["unshare", "-m", "sh", "-c", mount, dir.path().to_str().unwrap()];
    let test = "store::tests::disk_full::a_full_disk_refuses_by_name_and_loses_nothing_held";
    expect_success(&reexecute(test, VARIABLE, dir.path(), &wrapper).output().unwrap());
}

#[tokio::test]
async fn an_index_that_cannot_be_written_fails_the_piece_and_works_again_after() {
    if let Some(dir) = std::env::var_os(VARIABLE) {
        return refuse_the_index(Path::new(&dir)).await;
    }
    let dir = TempDir::new().unwrap();
    // Past the limit a write fails with EFBIG only if the signal that comes with it is ignored.
    let wrapper = ["sh", "-c", r#"trap '' XFSZ && exec "$0" "$@""#];
    let test =
        "store::tests::disk_full::an_index_that_cannot_be_written_fails_the_piece_and_works_again_after";
    expect_success(&reexecute(test, VARIABLE, dir.path(), &wrapper).output().unwrap());
}

/// In the child, with the store's folder on a disk of 24 MiB.
async fn fill_the_disk(dir: &Path) {
    let (store, _evicted) = open(dir, 1 << 30);
    let held = TestBlob::new(1, 4 << 20);
    let file = store.begin(held.digest, held.layout).await.unwrap();
    held.write(&store, &file, 0).await.unwrap();

    let large = TestBlob::new(2, 64 << 20);
    let readiness = Readiness::new();
    let watching = tokio::spawn(store.clone().watch_disk(readiness.clone()));
    let large_file = store.begin(large.digest, large.layout).await.unwrap();
    let mut piece = 0;
    let refused = loop {
        match large.write(&store, &large_file, piece).await {
            Ok(()) => piece += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(piece > 8, "a promise of 64 MiB took what {piece} pieces have");
    let mut turn = tokio::time::interval(Duration::from_millis(10));
    while readiness.unmet().is_empty() {
        turn.tick().await;
    }
    let told = &readiness.unmet()["store"];
    assert!(told.contains(dir.to_str().unwrap()) && told.contains("128.0 KiB"), "{told}");
    watching.abort();
    // A store is one's alone again once the last handle is dropped.
    let _ = watching.await;
    // What is refused before the disk is asked says nothing of the disk.
    TestBlob::new(9, 4 << 20).write(&store, &file, 0).await.unwrap_err();
    assert!(store.inner.shared.trouble.is_there(), "the disk is still full");
    assert!(refused.contains(&large.digest.short()) && refused.contains("No space left"), "{refused}");
    let fresh = TestBlob::new(4, 100 * KIB);
    let fresh_file = store.begin(fresh.digest, fresh.layout).await.unwrap();
    fresh.write(&store, &fresh_file, 0).await.unwrap_err();
    assert_eq!(fs::read_dir(dir.join("partial")).unwrap().count(), 2, "nothing is left of it");
    store.purge(large.digest, None).await;
    drop(large_file);
    fresh.write(&store, &fresh_file, 0).await.unwrap();

    let mut ballast = File::create(dir.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let mut held_pieces = vec![0];
    for piece in 1..held.layout.piece_count() {
        match held.write(&store, &file, piece).await {
            Ok(()) => held_pieces.push(piece),
            Err(error) => assert!(error.to_string().contains(&held.digest.short()), "{error}"),
        }
    }
    let small = TestBlob::new(3, 10_000);
    let small_file = store.begin(small.digest, small.layout).await.unwrap();
    small.write(&store, &small_file, 0).await.unwrap_err();
    read_all(&store, &held, &held_pieces).await;

    let watching = tokio::spawn(store.clone().watch_disk(readiness.clone()));
    drop(ballast);
    fs::remove_file(dir.join("ballast")).unwrap();
    // It is known without a pull that there is room again.
    while !readiness.unmet().is_empty() {
        turn.tick().await;
    }
    watching.abort();
    let _ = watching.await;
    small.store_whole(&store).await;
    held.store_whole(&store).await;
    drop((file, fresh_file, small_file, store));
    let (store, _evicted) = open(dir, 1 << 30);
    read_all(&store, &held, &(0..held.layout.piece_count()).collect::<Vec<_>>()).await;
}

/// In the child: no file may be written beyond its first 4 KiB, so that a tiny blob fits and the index
/// does not.
async fn refuse_the_index(dir: &Path) {
    let (store, mut evicted) = open(dir, 300 * KIB);
    let [held, idle] = [1, 2].map(|seed| TestBlob::new(seed, 100 * KIB));
    let file = held.store_whole(&store).await;
    idle.store_whole(&store).await;
    let [written, never, large] = [TestBlob::new(3, 100), TestBlob::new(4, 200), TestBlob::new(5, 150 * KIB)];
    let begin = |blob: &TestBlob| store.begin(blob.digest, blob.layout);
    let tiny_file = begin(&written).await.unwrap();
    let [never_file, large_file] = [begin(&never).await.unwrap(), begin(&large).await.unwrap()];

    let unlimited = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(4096), ..unlimited }).unwrap();
    for _ in 0..3 {
        let refused = written.write(&store, &tiny_file, 0).await.unwrap_err();
        assert!(matches!(refused, WriteError::Index { .. }), "{refused}");
        assert!(refused.to_string().contains(&written.digest.short()), "{refused}");
    }
    assert!(matches!(store.complete(&tiny_file).await, Err(CompleteError::PiecesMissing { .. })));
    assert!(tiny_file.pieces().is_empty());
    assert!(never.write(&store, &never_file, 0).await.is_err());
    assert!(evicted.try_recv().is_err());
    assert!(large.write(&store, &large_file, 0).await.is_err());
    assert!(large.write(&store, &large_file, 1).await.is_err());
    assert_eq!(evicted.try_recv().unwrap(), idle.digest);
    read_all(&store, &held, &[0]).await;

    setrlimit(Resource::Fsize, unlimited).unwrap();
    written.write(&store, &tiny_file, 0).await.unwrap();
    drop(large_file);
    idle.store_whole(&store).await;
    drop((file, tiny_file, never_file, store));
    let (store, _evicted) = open(dir, 300 * KIB);
    for blob in [&held, &idle, &written] {
        read_all(&store, blob, &[0]).await;
    }
    assert_eq!(store.inventory().len(), 3);
}

async fn read_all(store: &Store, blob: &TestBlob, pieces: &[u32]) {
    let file = store.open_blob(blob.digest).await.unwrap().unwrap();
    for piece in pieces {
        assert_eq!(store.read(&file, *piece).await.unwrap(), blob.piece(*piece));
    }
}

fn expect_success(output: &Output) {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{}\n{}", said[0], said[1]);
    assert!(said[0].contains("1 passed"), "no such test: {}", said[0]);
}
