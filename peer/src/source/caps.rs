//! What a seed reads from one endpoint at most, as the hour has it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flotilla_daemon::config::Bandwidth;
use flotilla_daemon::settings::Cap;
use flotilla_proto::TokenBucket;
use jiff::Zoned;

/// Keeps all reads of one endpoint together to what is in force.
pub(super) struct Caps {
    caps: Vec<Cap>,
    /// The bucket of the bandwidth that was in force last. Held for an addition.
    bucket: Mutex<Option<(Bandwidth, TokenBucket)>>,
}

impl Caps {
    pub(super) fn new(caps: Vec<Cap>) -> Self {
        Self { caps, bucket: Mutex::new(None) }
    }

    /// Waits until so many bytes, which have come, have had their time: what is not read meanwhile, TCP
    /// keeps the registry from sending.
    pub(super) async fn pass(&self, bytes: usize) {
        if let Some(paid) = self.paid_at(bytes) {
            tokio::time::sleep_until(paid).await;
        }
    }

    /// When so many bytes, which have come, have had their time, where anything holds them back.
    pub(super) fn paid_at(&self, bytes: usize) -> Option<tokio::time::Instant> {
        if self.caps.is_empty() {
            return None;
        }
        let now = Zoned::now();
        let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
        self.take(minute, Instant::now(), bytes).map(Into::into)
    }

    /// Takes so many bytes; when the next may follow.
    fn take(&self, minute_of_day: u16, now: Instant, bytes: usize) -> Option<Instant> {
        let bandwidth = Cap::in_force(&self.caps, minute_of_day)?;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.as_ref().is_none_or(|(before, _)| *before != bandwidth) {
            *bucket = Some((bandwidth, TokenBucket::new(bandwidth.bytes_per_s(), BURST)));
        }
        let (_, bucket) = bucket.as_mut()?;
        bucket.take(now, u32::try_from(bytes).unwrap_or(u32::MAX));
        bucket.opens_at()
    }
}

/// How far ahead of the cap a read may be.
const BURST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_changes_with_the_hour() {
        let caps = Caps::new(vec!["1 MB@08:00-18:00".parse().unwrap(), "10 MB".parse().unwrap()]);
        let now = Instant::now();
        let waits = |minute| {
            let mut last = now;
            for _ in 0..50 {
                last = caps.take(minute, now, 100_000).unwrap();
            }
            last.saturating_duration_since(now)
        };
        let (day, night) = (waits(12 * 60), waits(2 * 60));
        assert!((4.89..4.91).contains(&day.as_secs_f64()), "{day:?}");
        assert!((0.39..0.41).contains(&night.as_secs_f64()), "{night:?}");
        assert!(Caps::new(Vec::new()).take(0, now, 1).is_none());
    }
}
