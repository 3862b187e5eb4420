//! How a parent did of late, over all downloads: how long it is waited for, and when it rests.

use std::time::{Duration, Instant};

use crate::Patience;

/// One parent's health. Fresh ones know nothing and expect the best.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// From a request to the first byte, averaged; `None` before the first delivery.
    first_byte: Option<Duration>,
    /// Bytes a second of one piece on its way, averaged.
    bytes_per_s: f64,
    /// Failures that are not forgiven yet.
    strikes: u32,
    struck_at: Option<Instant>,
    /// *Busy* answers since the last delivery.
    busy_streak: u32,
    rests_until: Option<Instant>,
}

impl Health {
    /// A piece came: its first byte after `first_byte`, all its `bytes` after `took`.
    pub(crate) fn delivered(&mut self, first_byte: Duration, bytes: u32, took: Duration) {
        let flowed = took.saturating_sub(first_byte).max(SHORTEST_FLOW);
        let bytes_per_s = f64::from(bytes) / flowed.as_secs_f64();
        match self.first_byte {
            None => (self.first_byte, self.bytes_per_s) = (Some(first_byte), bytes_per_s),
            Some(average) => {
                self.first_byte = Some((average * 7 + first_byte) / 8);
                self.bytes_per_s += (bytes_per_s - self.bytes_per_s) / 8.0;
            }
        }
        (self.busy_streak, self.rests_until) = (0, None);
    }

    /// How long to wait for it. A parent never heard from gets the most: its host may be
    /// loaded, and nothing is known of its way here.
    pub(crate) fn patience(&self) -> Patience {
        let Some(first_byte) = self.first_byte else {
            return Patience { stall: MAX_STALL, least_bytes_per_s: 0 };
        };
        let stall = (first_byte * 8).clamp(MIN_STALL, MAX_STALL);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate")]
        let least_bytes_per_s = (self.bytes_per_s / 8.0) as u64;
        Patience { stall, least_bytes_per_s }
    }

    /// It sent nothing, or could not be reached. The third time it rests, longer each time
    /// after; every [`FORGIVEN_AFTER`] forgives one.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.strikes = self.strikes(now) + 1;
        self.struck_at = Some(now);
        if let Some(again) = self.strikes.checked_sub(STRIKES_TO_REST) {
            self.rest(now, (FIRST_REST * 2_u32.saturating_pow(again)).min(MAX_REST));
        }
    }

    /// It has too much to do: `spread`, at most 1, keeps those who heard so apart.
    pub(crate) fn was_busy(&mut self, now: Instant, spread: f64) {
        let pause = FIRST_BUSY * 2_u32.saturating_pow(self.busy_streak.min(10));
        self.busy_streak += 1;
        self.rest(now, pause.min(MAX_BUSY).mul_f64(0.5 + spread / 2.0));
    }

    /// Asks it nothing for so long.
    pub(crate) fn rest(&mut self, now: Instant, pause: Duration) {
        self.rests_until = Some(now + pause);
    }

    /// Until when it is asked nothing, if it rests.
    pub(crate) fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.rests_until.filter(|until| *until > now)
    }

    /// Failures that are not forgiven yet.
    pub(crate) fn strikes(&self, now: Instant) -> u32 {
        let since = self.struck_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let forgiven = u32::try_from(since.as_secs() / FORGIVEN_AFTER.as_secs()).unwrap_or(u32::MAX);
        self.strikes.saturating_sub(forgiven)
    }
}

/// Shorter flows are mostly measurement error.
const SHORTEST_FLOW: Duration = Duration::from_micros(100);

/// The floor of a stall (docs/design.md §4).
const MIN_STALL: Duration = Duration::from_millis(250);

/// A host with more daemons than cores stalls this long without being dead.
const MAX_STALL: Duration = Duration::from_secs(2);

const STRIKES_TO_REST: u32 = 3;
const FIRST_REST: Duration = Duration::from_secs(2);
const MAX_REST: Duration = Duration::from_secs(30);
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// About the time a queue of four pieces takes on a fast link.
const FIRST_BUSY: Duration = Duration::from_millis(8);
/// Longer ones leave uplinks idle while few have anything to give: 500 even peers that pick end at
/// 1.165 of the bound with it, with 128 ms at 1.184 (one seed).
const MAX_BUSY: Duration = Duration::from_millis(32);

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // a test may read the clock

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn patience_follows_what_was_measured_between_its_bounds() {
        let mut health = Health::default();
        assert_eq!(health.patience(), Patience { stall: 2000 * MS, least_bytes_per_s: 0 });
        health.delivered(MS, 1_000_000, 101 * MS);
        assert_eq!(health.patience(), Patience { stall: 250 * MS, least_bytes_per_s: 1_250_000 });
        for _ in 0..100 {
            health.delivered(100 * MS, 1_000_000, 200 * MS);
        }
        assert!((790 * MS..=800 * MS).contains(&health.patience().stall), "{:?}", health.patience());
    }

    #[test]
    fn three_stalls_rest_a_parent_and_time_forgives_them() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..2 {
            health.failed(now);
            assert_eq!(health.rests_until(now), None);
        }
        health.failed(now);
        assert_eq!(health.rests_until(now), Some(now + FIRST_REST));
        let later = now + FORGIVEN_AFTER * 2;
        assert_eq!((health.strikes(now), health.strikes(later)), (3, 1));
        health.failed(later);
        assert_eq!(health.rests_until(later), None);
    }

    #[test]
    fn a_busy_parent_rests_longer_each_time_until_it_delivers() {
        let (mut health, now) = (Health::default(), Instant::now());
        let mut rests = Vec::new();
        for _ in 0..6 {
            health.was_busy(now, 1.0);
            rests.push(health.rests_until(now).unwrap() - now);
        }
        assert_eq!(rests, [8 * MS, 16 * MS, 32 * MS, 32 * MS, 32 * MS, 32 * MS]);
        health.delivered(MS, 1000, 2 * MS);
        assert_eq!(health.rests_until(now), None);
    }
}
