//! A disk that takes nothing, as an operator sees it: a warning with path and bytes, a counter, a condition of
//! readiness. Whoever waits for a blob is told by its own error.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use flotilla_daemon::telemetry::Readiness;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Store, blocking};

/// What is wrong with the disk of a store.
pub(super) struct Trouble {
    dir: PathBuf,
    failures: Counter,
    now: watch::Sender<Option<Refused>>,
    /// Held for one look.
    warned_at: Mutex<Option<Instant>>,
}

/// What the disk did not take.
#[derive(Debug, Clone)]
struct Refused {
    bytes: u64,
    reason: String,
}

impl Trouble {
    pub(super) fn new(dir: &Path, failures: Counter) -> Self {
        Self { dir: dir.to_owned(), failures, now: watch::Sender::new(None), warned_at: Mutex::default() }
    }

    /// Takes note of how a change that takes `bytes` went; `Err` only if it was the disk that failed.
    pub(super) fn note(&self, bytes: u64, went: Result<(), &dyn Display>) {
        let Err(error) = went else {
            // What takes less may have had room all the time.
            let is_over = |refused: &mut Refused| bytes >= refused.bytes;
            let had_trouble = self.now.send_if_modified(|now| now.take_if(is_over).is_some());
            if had_trouble {
                tracing::info!(store = %self.dir.display(), "the disk takes bytes again");
            }
            return;
        };
        self.failures.inc();
        if self.is_time_to_warn() {
            let size = ByteSize(bytes);
            tracing::warn!(store = %self.dir.display(), %error, "the disk did not take {size}: pulls that need it fail");
        }
        let reason = format!("{} did not take {}: {error}", self.dir.display(), ByteSize(bytes));
        self.now.send_replace(Some(Refused { bytes, reason }));
    }

    #[cfg(test)]
    pub(super) fn is_there(&self) -> bool {
        self.now.borrow().is_some()
    }

    fn is_time_to_warn(&self) -> bool {
        let mut warned_at = self.warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = warned_at.is_none_or(|at| at.elapsed() >= REPEAT);
        if is_time {
            *warned_at = Some(Instant::now());
        }
        is_time
    }
}

impl Store {
    /// Shows the disk's trouble as a condition of readiness, and finds out by itself when it is over. Runs for ever.
    pub(crate) async fn watch_disk(self, readiness: Readiness) {
        let mut trouble = self.inner.shared.trouble.now.subscribe();
        loop {
            let refused = trouble.wait_for(Option::is_some).await.expect("the sender lives in self").clone();
            let Refused { bytes, reason } = refused.expect("it was waited for");
            readiness.missing(CONDITION, reason);
            sleep(RETRY).await;
            let shared = self.inner.shared.clone();
            if blocking(move || shared.files.try_room(bytes)).await.is_ok() {
                self.inner.shared.trouble.note(bytes, Ok(()));
            }
            if trouble.borrow().is_none() {
                readiness.met(CONDITION);
            }
        }
    }
}

/// The condition in `/readyz`.
const CONDITION: &str = "store";

/// What still holds is said again.
const REPEAT: Duration = Duration::from_secs(60);

/// Between two looks whether the disk takes again what it did not take.
const RETRY: Duration = Duration::from_secs(5);
