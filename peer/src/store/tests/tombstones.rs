//! What was purged is remembered.

use flotilla_proto::{Root, Variant};
use redb::{Database, TableDefinition};

use super::*;

#[tokio::test]
async fn a_purge_is_remembered_across_a_reopen_with_what_it_took() {
    let dir = TempDir::new().unwrap();
    let blob = TestBlob::new(1, 300 * KIB);
    let absent = variant(2);
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        let file = store.begin(blob.digest, blob.layout).await.unwrap();
        blob.write(&store, &file, 0).await.unwrap();
        assert!(store.purge(blob.digest, Some(variant(1).root)).await);
        store.entomb(absent).await;
        assert_eq!(store.tombstones(), [], "as of the opening");
    }
    let (store, _evicted) = open(dir.path(), 1 << 20);
    assert_eq!(store.tombstones(), [Variant { digest: blob.digest, ..variant(1) }, absent]);
    assert_eq!(store.inventory(), []);
}

#[test]
fn the_oldest_tombstones_go() {
    let dir = TempDir::new().unwrap();
    let mut index = Index::open(&dir.path().join("index.redb")).unwrap();
    for batch in 0..3 {
        let changes: Vec<Change> = (0..500).map(|n| Change::PutTombstone(variant(500 * batch + n))).collect();
        index.commit(&changes).unwrap();
    }
    assert!(index.tombstones().unwrap().into_iter().eq((476..1500).map(variant)));
}

#[tokio::test]
async fn a_store_from_before_tombstones_opens() {
    let dir = TempDir::new().unwrap();
    let blob = TestBlob::new(1, 300 * KIB);
    {
        let (store, _evicted) = open(dir.path(), 1 << 20);
        blob.store_whole(&store).await;
    }
    {
        let index = Database::open(dir.path().join("index.redb")).unwrap();
        let transaction = index.begin_write().unwrap();
        let table = TableDefinition::<u64, (&[u8; 32], &[u8; 32])>::new("tombstones");
        assert!(transaction.delete_table(table).unwrap());
        transaction.commit().unwrap();
    }
    let (store, _evicted) = open(dir.path(), 1 << 20);
    assert!(store.inventory()[0].complete && store.tombstones().is_empty());
}

fn variant(number: u16) -> Variant {
    let mut root = [0; 32];
    root[..2].copy_from_slice(&number.to_be_bytes());
    Variant { digest: Digest::from_bytes([9; 32]), root: Root::from_bytes(root) }
}
