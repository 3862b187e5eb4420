//! Which registries gave a blob, and which ones delivered it.

use super::*;

fn mark(number: u64) -> RegistryMark {
    RegistryMark::from_bits(number)
}

async fn write(store: &Store, file: &Arc<BlobFile>, blob: &TestBlob, piece: u32, by: &[u64]) {
    let bytes = blob.piece(piece);
    store.write(file, piece, PieceHash::of(&bytes), bytes, Origins::told(by), false).await.unwrap();
}

#[tokio::test]
async fn who_gave_a_part_is_known_across_a_reopen_and_until_the_blob_goes() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (TestBlob::new(1, 300 * KIB), TestBlob::new(2, 300 * KIB));
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        let file = store.begin(one.digest, one.layout).await.unwrap();
        assert!(file.origins().is_empty());
        write(&store, &file, &one, 0, &[7]).await;
        write(&store, &file, &one, 1, &[7, 8]).await;
        // The piece is held already, so this adds no registry.
        write(&store, &file, &one, 1, &[9]).await;
        assert_eq!(file.origins(), Origins::told(&[7, 8]));
        write(&store, &store.begin(two.digest, two.layout).await.unwrap(), &two, 0, &[9]).await;
    }
    let (store, _evicted) = open(dir.path(), 1 << 20);
    for (blob, expected) in [(&one, &[7, 8][..]), (&two, &[9])] {
        let file = store.begin(blob.digest, blob.layout).await.unwrap();
        assert_eq!(file.origins(), Origins::told(expected));
    }
    assert!(store.purge(one.digest, None).await);
    drop(store);
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let file = store.begin(one.digest, one.layout).await.unwrap();
    write(&store, &file, &one, 0, &[8]).await;
    assert_eq!(file.origins(), Origins::told(&[8]), "the purged blob's registries are forgotten");
}

/// As releases before this one left it.
#[tokio::test]
async fn where_nobody_noted_who_gave_a_blob_nobody_knows() {
    let dir = TempDir::new().unwrap();
    let blob = TestBlob::new(1, 300 * KIB);
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        write(&store, &store.begin(blob.digest, blob.layout).await.unwrap(), &blob, 0, &[7]).await;
    }
    redb::Database::open(dir.path().join("index.redb"))
        .map(|index| {
            let change = index.begin_write().unwrap();
            change.delete_table(redb::TableDefinition::<(&[u8; 32], u64), ()>::new("origins")).unwrap();
            change.commit().unwrap();
        })
        .unwrap();
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        let file = store.begin(blob.digest, blob.layout).await.unwrap();
        assert_eq!(file.origins(), Origins::unknown());
        write(&store, &file, &blob, 1, &[7]).await;
    }
    let (store, _evicted) = open(dir.path(), 1 << 20);
    let file = store.begin(blob.digest, blob.layout).await.unwrap();
    assert_eq!(file.origins().only(), None, "what came later says nothing of what was there");
}

#[tokio::test]
async fn who_gave_the_whole_has_delivered_it_also_when_it_is_gone() {
    let dir = TempDir::new().unwrap();
    let [own, mixed, part, shown] = [1, 2, 3, 4].map(|seed| TestBlob::new(seed, 300 * KIB));
    {
        let (store, _evicted) = open(dir.path(), 2 << 20);
        for (blob, by, pieces) in [(&own, &[7][..], 3), (&mixed, &[7, 8], 3), (&part, &[7], 2)] {
            let file = store.begin(blob.digest, blob.layout).await.unwrap();
            for piece in 0..pieces {
                write(&store, &file, blob, piece, by).await;
            }
            if pieces == 3 {
                store.complete(&file).await.unwrap();
            }
        }
        store.delivered(shown.digest, mark(8)).await;
        assert!(store.purge(own.digest, None).await);
    }
    let (store, _evicted) = open(dir.path(), 2 << 20);
    let known = |blob: &TestBlob| [7, 8].map(|number| store.is_delivered(blob.digest, mark(number)));
    assert_eq!(known(&own), [true, false]);
    assert_eq!(known(&mixed), [false; 2], "of two that gave parts neither gave the whole");
    assert_eq!(known(&part), [false; 2]);
    assert_eq!(known(&shown), [false, true]);
}
