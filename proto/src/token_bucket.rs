//! Keeping bytes to a rate.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// A token bucket for bytes, by the generic cell rate algorithm (ITU-T I.371, Annex A): one time is
/// all its state. In any stretch of time `t` it lets through at most `rate · (t + burst)` bytes and
/// the one taking that it was not empty for.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    bytes_per_s: NonZeroU64,
    burst: Duration,
    /// When all that was taken would be through at the rate; `None` before the first.
    paid_until: Option<Instant>,
}

impl TokenBucket {
    /// A full one. `burst` is how far ahead of the rate its bytes may be.
    pub const fn new(bytes_per_s: NonZeroU64, burst: Duration) -> Self {
        Self { bytes_per_s, burst, paid_until: None }
    }

    /// Whether anything may be taken without waiting.
    pub fn is_open(&self, now: Instant) -> bool {
        self.opens_at().is_none_or(|at| at <= now)
    }

    /// From when on that is so; `None` if it always was.
    pub fn opens_at(&self) -> Option<Instant> {
        let paid_until = self.paid_until?;
        Some(paid_until.checked_sub(self.burst).unwrap_or(paid_until))
    }

    /// Takes so many bytes, whether it is open or not. When they may go: those taken before come
    /// first.
    pub fn take(&mut self, now: Instant, bytes: u32) -> Instant {
        let may_go = self.opens_at().map_or(now, |at| at.max(now));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s.get());
        let time = Duration::from_nanos(u64::try_from(nanos).expect("u32::MAX seconds are below 2^62 ns"));
        self.paid_until = Some(self.paid_until.map_or(now, |until| until.max(now)) + time);
        may_go
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test may read the clock, once
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bucket(bytes_per_s: u64) -> TokenBucket {
        TokenBucket::new(NonZeroU64::new(bytes_per_s).unwrap(), 100 * MS)
    }

    #[test]
    fn what_is_taken_goes_at_the_rate_once_the_burst_is_spent() {
        let (start, mut bucket) = (Instant::now(), bucket(1_000_000));
        let waits: Vec<_> = (0..5).map(|_| (bucket.take(start, 50_000) - start) / 50).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, Duration::ZERO, MS, 2 * MS]);
        assert_eq!(bucket.opens_at(), Some(start + 150 * MS));
        assert!(!bucket.is_open(start + 149 * MS) && bucket.is_open(start + 150 * MS));
    }

    #[test]
    fn idle_time_saves_no_more_than_the_burst() {
        let (start, mut bucket) = (Instant::now(), bucket(1_000_000));
        bucket.take(start, 50_000);
        let later = start + 3_600_000 * MS;
        let waits: Vec<_> = (0..4).map(|_| bucket.take(later, 50_000) - later).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, Duration::ZERO, 50 * MS]);
    }

    #[test]
    fn the_slowest_rate_and_the_largest_taking_are_no_trouble() {
        let (start, mut bucket) = (Instant::now(), bucket(1));
        assert_eq!(bucket.take(start, u32::MAX), start);
        assert!(bucket.opens_at().unwrap() > start + Duration::from_secs(4_000_000_000));
    }

    proptest! {
        #[test]
        fn in_no_stretch_of_time_do_more_bytes_go_than_the_rate_allows(
            takings in prop::collection::vec((0_u64..200, 1_u32..100_000), 1..60),
        ) {
            let (mut now, mut bucket) = (Instant::now(), bucket(500_000));
            let mut gone = Vec::new();
            for (pause, bytes) in takings {
                now += u32::try_from(pause).unwrap() * MS;
                gone.push((bucket.take(now, bytes), u64::from(bytes)));
            }
            for (first, (from, _)) in gone.iter().enumerate() {
                let mut bytes = 0;
                for (at, more) in &gone[first..] {
                    let allowed = ((*at - *from) + 100 * MS).as_secs_f64() * 500_000.0;
                    prop_assert!(f64::from(u32::try_from(bytes).unwrap()) <= allowed + 1.0);
                    bytes += more;
                }
            }
        }
    }
}
