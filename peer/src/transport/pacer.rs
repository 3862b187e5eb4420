//! What pieces may take of the node's link, where the configuration limits it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use flotilla_daemon::config::Bandwidth;
use flotilla_proto::TokenBucket;
use tokio::time::sleep_until;

/// Keeps one direction of all transfers together to a rate.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    /// Held for an addition, never across an await. `None` without a limit.
    bucket: Option<Mutex<TokenBucket>>,
}

impl Pacer {
    pub(crate) fn new(bandwidth: Option<Bandwidth>) -> Self {
        let bucket = |bandwidth: Bandwidth| TokenBucket::new(bandwidth.bytes_per_s(), BURST);
        Self { bucket: bandwidth.map(|bandwidth| Mutex::new(bucket(bandwidth))) }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.bucket.is_some()
    }

    /// Waits until so many bytes may go. Whoever came first goes first; who stops waiting has had
    /// its share all the same.
    pub(crate) async fn pass(&self, bytes: u32) {
        let Some(bucket) = &self.bucket else { return };
        let may_go = {
            let mut bucket = bucket.lock().expect("no panic while the bucket is locked");
            bucket.take(Instant::now(), bytes)
        };
        sleep_until(may_go.into()).await;
    }
}

/// How far ahead of the rate transfers may be: a scheduler's measurement of it.
const BURST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    #[tokio::test]
    async fn what_passes_together_keeps_to_the_rate() {
        let pacer = Pacer::new(Some(Bandwidth::try_from(ByteSize::mb(10)).unwrap()));
        let began_at = Instant::now();
        let passes = (0..30).map(|_| pacer.pass(100_000));
        futures_util::future::join_all(passes).await;
        // 3 MB, of which the last 100 KB start to go and 1 MB is the burst.
        assert!(began_at.elapsed() >= Duration::from_millis(190), "{:?}", began_at.elapsed());
        Pacer::new(None).pass(u32::MAX).await;
    }
}
