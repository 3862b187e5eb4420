//! What an open makes of what it finds.

use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn a_second_store_in_one_folder_is_refused_and_the_folder_named() {
    let dir = TempDir::new().unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let Err(error) = Store::open(dir.path(), &quota(1 << 20), &mut Registry::default()) else {
        panic!("two stores in one folder");
    };
    assert!(matches!(error, OpenStoreError::InUse { .. }));
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    drop(store);
    open(dir.path(), 1 << 20);
}

#[tokio::test]
async fn an_index_that_is_none_is_an_error_that_names_the_folder() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("index.redb"), [7; 9000]).unwrap();
    let Err(error) = Store::open(dir.path(), &quota(1 << 20), &mut Registry::default()) else {
        panic!("opened garbage");
    };
    assert!(matches!(error, OpenStoreError::Index { .. }));
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn files_without_a_row_and_rows_without_a_file_are_gone_after_an_open() {
    let dir = TempDir::new().unwrap();
    let [kept, missing, short] = [1, 2, 3].map(|seed| TestBlob::new(seed, 300 * KIB));
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        for blob in [&kept, &missing, &short] {
            blob.store_whole(&store).await;
        }
    }
    fs::remove_file(complete_path(&dir, &missing)).unwrap();
    File::options().write(true).open(complete_path(&dir, &short)).unwrap().set_len(9).unwrap();
    let orphan = TestBlob::new(4, 10);
    let orphans = [
        partial_path(&dir, &orphan),
        complete_path(&dir, &orphan),
        partial_path(&dir, &kept),
        dir.path().join("partial/notes.txt"),
    ];
    for path in &orphans {
        fs::write(path, b"orphan").unwrap();
    }

    let (store, _evicted) = open(dir.path(), 1 << 20);

    let held: Vec<_> = store.inventory().iter().map(|blob| blob.digest).collect();
    assert_eq!(held, [kept.digest]);
    assert!(orphans.iter().all(|path| !path.exists()));
    assert!(!complete_path(&dir, &short).exists());
    assert!(store.hashes(missing.digest).is_none());
}

#[tokio::test]
async fn a_file_in_the_wrong_folder_is_moved_to_where_its_row_says() {
    let dir = TempDir::new().unwrap();
    let [complete, partial] = [1, 2].map(|seed| TestBlob::new(seed, 300 * KIB));
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        complete.store_whole(&store).await;
        let file = store.begin(partial.digest, partial.layout).await.unwrap();
        partial.write(&store, &file, 0).await.unwrap();
    }
    fs::rename(complete_path(&dir, &complete), partial_path(&dir, &complete)).unwrap();
    fs::rename(partial_path(&dir, &partial), complete_path(&dir, &partial)).unwrap();
    let (store, _evicted) = open(dir.path(), 1 << 20);
    for (blob, piece) in [(&complete, 2), (&partial, 0)] {
        let file = store.open_blob(blob.digest).await.unwrap().unwrap();
        assert_eq!(store.read(&file, piece).await.unwrap(), blob.piece(piece));
    }
    assert!(complete_path(&dir, &complete).exists() && partial_path(&dir, &partial).exists());
}
