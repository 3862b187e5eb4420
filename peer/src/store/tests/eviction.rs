//! Who goes when the quota is full, and who stays.

use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn the_least_recently_used_blob_makes_room() {
    let dir = TempDir::new().unwrap();
    let mut registry = Registry::default();
    let (store, mut evicted) = Store::open(dir.path(), &quota(300 * KIB), &mut registry).unwrap();
    let blobs: Vec<_> = (0..4).map(|seed| TestBlob::new(seed, 100 * KIB)).collect();
    for blob in &blobs[..3] {
        blob.store_whole(&store).await;
    }
    store.touch(blobs[0].digest);
    let file = store.open_blob(blobs[1].digest).await.unwrap().unwrap();
    store.read(&file, 0).await.unwrap();
    drop(file);

    blobs[3].store_whole(&store).await;

    assert_eq!(evicted.try_recv().unwrap(), blobs[2].digest);
    assert!(evicted.try_recv().is_err());
    assert!(!complete_path(&dir, &blobs[2]).exists());
    assert!(store.open_blob(blobs[2].digest).await.unwrap().is_none());
    let text = exposition(&registry);
    for line in ["bytes 307200", "quota_bytes 307200", "blobs 3", "evictions_total 1"] {
        assert!(text.contains(&format!("flotilla_peer_store_{line}\n")), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_partial_blob_nobody_has_open_is_evicted_like_any_other() {
    let dir = TempDir::new().unwrap();
    let (store, mut evicted) = open(dir.path(), 300 * KIB);
    let (partial, next) = (TestBlob::new(1, 300 * KIB), TestBlob::new(2, 200 * KIB));
    let file = store.begin(partial.digest, partial.layout).await.unwrap();
    partial.write(&store, &file, 0).await.unwrap();
    drop(file);
    next.store_whole(&store).await;
    assert_eq!(evicted.try_recv().unwrap(), partial.digest);
    assert!(!partial_path(&dir, &partial).exists());
}

#[tokio::test]
async fn an_open_blob_is_not_evicted_and_nothing_goes_for_a_blob_that_cannot_fit() {
    let dir = TempDir::new().unwrap();
    let (store, mut evicted) = open(dir.path(), 300 * KIB);
    let (open_one, idle, large) =
        (TestBlob::new(1, 100 * KIB), TestBlob::new(2, 100 * KIB), TestBlob::new(3, 201 * KIB));
    let file = open_one.store_whole(&store).await;
    idle.store_whole(&store).await;

    let refused = store.begin(large.digest, large.layout).await;
    assert!(
        matches!(refused, Err(BeginError::NoRoom { needed, quota }) if needed == 201 * KIB && quota == 300 * KIB)
    );
    assert!(evicted.try_recv().is_err(), "nothing was evicted in vain");

    drop(file);
    large.store_whole(&store).await;
    assert_eq!(evicted.try_recv().unwrap(), open_one.digest);
    assert_eq!(evicted.try_recv().unwrap(), idle.digest);

    let too_large = TestBlob::new(4, 301 * KIB);
    assert!(matches!(store.begin(too_large.digest, too_large.layout).await, Err(BeginError::NoRoom { .. })));
    assert!(evicted.try_recv().is_err());
}

#[tokio::test]
async fn a_claimed_size_takes_nothing_and_evicts_nothing_before_its_bytes_come() {
    let dir = TempDir::new().unwrap();
    let mut registry = Registry::default();
    let (store, mut evicted) = Store::open(dir.path(), &quota(300 * KIB), &mut registry).unwrap();
    let (held, claimed) = (TestBlob::new(1, 200 * KIB), TestBlob::new(2, 300 * KIB));
    held.store_whole(&store).await;
    for seed in 10..5_000 {
        let other = TestBlob::new(seed, 300 * KIB);
        drop(store.begin(other.digest, other.layout).await.unwrap());
    }
    let file = store.begin(claimed.digest, claimed.layout).await.unwrap();
    let again = store.begin(claimed.digest, claimed.layout).await.unwrap();
    assert!(Arc::ptr_eq(&file, &again), "all write through one");

    assert!(evicted.try_recv().is_err());
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    assert!(
        store.open_blob(claimed.digest).await.unwrap().is_none() && store.hashes(claimed.digest).is_none()
    );
    assert!(exposition(&registry).contains("flotilla_peer_store_blobs 1\n"));

    claimed.write(&store, &file, 2).await.unwrap();
    assert!(evicted.try_recv().is_err(), "44 KiB fit beside what is held");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(partial_path(&dir, &claimed)).unwrap());
    assert!(blocks * 512 < 100 * KIB, "{blocks} blocks for one piece of 44 KiB");
    claimed.write(&store, &file, 0).await.unwrap();
    assert_eq!(evicted.try_recv().unwrap(), held.digest);
}

#[tokio::test]
async fn of_two_downloads_that_do_not_fit_together_one_is_told_and_the_other_goes_on() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 300 * KIB);
    let [one, other] = [1, 2].map(|seed| TestBlob::new(seed, 250 * KIB));
    let files = [
        store.begin(one.digest, one.layout).await.unwrap(),
        store.begin(other.digest, other.layout).await.unwrap(),
    ];
    one.write(&store, &files[0], 0).await.unwrap();
    other.write(&store, &files[1], 0).await.unwrap();
    let refused = one.write(&store, &files[0], 1).await.unwrap_err();
    assert!(matches!(refused, WriteError::NoRoom { .. }), "{refused}");
    let [file, _] = files;
    drop(file);
    other.write(&store, &store.begin(other.digest, other.layout).await.unwrap(), 1).await.unwrap();
}

#[tokio::test]
async fn the_order_of_use_survives_a_reopen() {
    let dir = TempDir::new().unwrap();
    let blobs: Vec<_> = (0..3).map(|seed| TestBlob::new(seed, 100 * KIB)).collect();
    {
        let (store, _evicted) = open(dir.path(), 300 * KIB);
        for blob in &blobs {
            blob.store_whole(&store).await;
        }
        store.touch(blobs[0].digest);
    }
    let (store, mut evicted) = open(dir.path(), 300 * KIB);
    TestBlob::new(3, 150 * KIB).store_whole(&store).await;
    assert_eq!(evicted.try_recv().unwrap(), blobs[1].digest);
    assert_eq!(evicted.try_recv().unwrap(), blobs[2].digest);
    assert!(store.open_blob(blobs[0].digest).await.unwrap().is_some());
}

#[tokio::test]
async fn a_smaller_quota_is_met_at_open() {
    let dir = TempDir::new().unwrap();
    let blobs: Vec<_> = (0..3).map(|seed| TestBlob::new(seed, 100 * KIB)).collect();
    {
        let (store, _evicted) = open(dir.path(), 300 * KIB);
        for blob in &blobs {
            blob.store_whole(&store).await;
        }
    }
    let (store, _evicted) = open(dir.path(), 250 * KIB);
    let mut held: Vec<_> = store.inventory().iter().map(|blob| blob.digest).collect();
    held.sort();
    let mut expected = [blobs[1].digest, blobs[2].digest];
    expected.sort();
    assert_eq!(held, expected);
    assert!(!complete_path(&dir, &blobs[0]).exists());
}
