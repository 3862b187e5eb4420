//! `kill -9` of a real process, at a moment nobody chose.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

/// Set in the process that is to be killed: the folder of its store.
const VARIABLE: &str = "FLOTILLA_TEST_STORE_TO_KILL";
const TEST: &str = "store::tests::crash::what_was_announced_before_kill_nine_is_held_after_it";
const ROUNDS: u64 = 6;

#[tokio::test]
async fn what_was_announced_before_kill_nine_is_held_after_it() {
    if let Some(dir) = std::env::var_os(VARIABLE) {
        return write_until_killed(Path::new(&dir)).await;
    }
    let dir = TempDir::new().unwrap();
    let mut announced = Announced::default();
    for round in 0..ROUNDS {
        let line_count = 30 * round + RandomState::new().build_hasher().finish() % 30;
        println!("round {round}: kill after {line_count} announcements");
        announced.listen_and_kill(dir.path(), line_count);
        announced.check(dir.path()).await;
    }
}

/// What the killed processes have said so far.
#[derive(Default)]
struct Announced {
    pieces_by_seed: BTreeMap<u64, BTreeSet<u32>>,
    complete: BTreeSet<u64>,
}

impl Announced {
    /// Starts a process, kills it after so many lines, and believes all it said until then.
    fn listen_and_kill(&mut self, dir: &Path, line_count: u64) {
        let mut child = reexecute(TEST, VARIABLE, dir, &[]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let (mut line, mut heard_count) = (String::new(), 0);
        while lines.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') && self.hear(&line) {
                heard_count += 1;
            }
            if heard_count == line_count {
                // What is in the pipe by then is read to its end all the same.
                child.kill().unwrap();
            }
            line.clear();
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "the process ended by itself");
        assert!(heard_count >= line_count, "the process said {heard_count} lines only");
    }

    /// False if the line is not one of ours: the test harness prints too.
    fn hear(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["held", seed, piece] => {
                let pieces = self.pieces_by_seed.entry(seed.parse().unwrap()).or_default();
                pieces.insert(piece.parse().unwrap());
            }
            ["complete", seed] => drop(self.complete.insert(seed.parse().unwrap())),
            ["purging", seed] => {
                let seed = seed.parse().unwrap();
                self.pieces_by_seed.remove(&seed);
                self.complete.remove(&seed);
            }
            _ => return false,
        }
        true
    }

    async fn check(&self, dir: &Path) {
        let (store, _evicted) = open(dir, 1 << 30);
        for (seed, pieces) in &self.pieces_by_seed {
            let blob = blob(*seed);
            let file = store.open_blob(blob.digest).await.unwrap().expect("announced pieces of it");
            for piece in pieces {
                assert_eq!(store.read(&file, *piece).await.unwrap(), blob.piece(*piece));
            }
        }
        for held in store.inventory() {
            let file = store.open_blob(held.digest).await.unwrap().unwrap();
            for piece in held.pieces.iter() {
                store.read(&file, piece).await.unwrap();
            }
            let place = if held.complete { "blobs/sha256" } else { "partial" };
            assert!(dir.join(place).join(held.digest.hex()).exists());
        }
        for seed in &self.complete {
            let digest = blob(*seed).digest;
            assert!(store.inventory().iter().any(|held| held.digest == digest && held.complete));
        }
    }
}

fn blob(seed: u64) -> TestBlob {
    TestBlob::new(seed, 5 * 128 * KIB + seed)
}

/// Writes blob after blob, four pieces at a time, completes most, purges every fourth, and says so:
/// after a piece is held, before a blob is purged.
async fn write_until_killed(dir: &Path) {
    // The harness has begun a line.
    println!();
    let (store, _evicted) = open(dir, 1 << 30);
    for seed in 1.. {
        let blob = blob(seed);
        let file = store.begin(blob.digest, blob.layout).await.unwrap();
        let mut writes = JoinSet::new();
        for piece in 0..blob.layout.piece_count() {
            let (store, file, bytes) = (store.clone(), Arc::clone(&file), blob.piece(piece));
            writes.spawn(async move {
                store
                    .write(&file, piece, PieceHash::of(&bytes), bytes, Origins::unknown(), false)
                    .await
                    .unwrap();
                println!("held {seed} {piece}");
            });
        }
        writes.join_all().await;
        if seed % 2 == 0 {
            store.complete(&file).await.unwrap();
            println!("complete {seed}");
        }
        if seed % 4 == 0 {
            println!("purging {seed}");
            store.purge(blob.digest, None).await;
        }
    }
}
