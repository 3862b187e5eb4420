//! Rates, measured from what lands while something is on its way.

use std::time::{Duration, Instant};

/// What one link moves, while there is something to move.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes per second, smoothed; `None` before the first measurement.
    rate: Option<f64>,
    window: Option<Window>,
}

/// A stretch of time in which the link always had work.
#[derive(Debug)]
struct Window {
    began_at: Instant,
    bytes: u64,
}

impl Meter {
    /// Work for the link begins, or goes on.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.window.get_or_insert(Window { began_at: now, bytes: 0 });
    }

    /// Bytes came through. The new sample, where this ends a window.
    pub(crate) fn land(&mut self, now: Instant, bytes: u64) -> Option<f64> {
        let window = self.window.as_mut()?;
        window.bytes += bytes;
        let time = now.saturating_duration_since(window.began_at);
        if time < WINDOW {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "bytes of a fraction of a second")]
        let sample = window.bytes as f64 / time.as_secs_f64();
        self.window = Some(Window { began_at: now, bytes: 0 });
        let rate = self.rate.map_or(sample, |rate| rate + SMOOTHING * (sample - rate));
        self.rate = Some(rate);
        Some(sample)
    }

    /// Too little is left to do for the rate to be the link's.
    pub(crate) fn end(&mut self) {
        self.window = None;
    }

    /// Bytes per second.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }
}

/// What is usual among many: a running median that takes one step a sample
/// (frugal streaming, Ma, Muthukrishnan & Sandler 2013), in no memory to speak of.
#[derive(Debug, Default)]
pub(crate) struct Usual(Option<f64>);

impl Usual {
    /// What is usual as far as is known.
    pub(crate) fn value(&self) -> Option<f64> {
        self.0
    }

    /// One more sample. What is usual with it.
    pub(crate) fn learn(&mut self, sample: f64) -> f64 {
        let usual = self.0.get_or_insert(sample);
        *usual *= if sample > *usual { 1.0 + STEP } else { 1.0 - STEP };
        *usual
    }
}

/// Control round trips, smoothed.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip(Option<Duration>);

impl RoundTrip {
    pub(crate) fn learn(&mut self, measured: Duration) {
        let measured = measured.min(LONGEST_ROUND_TRIP);
        self.0 = Some(self.0.map_or(measured, |known| (7 * known + measured) / 8));
    }

    pub(crate) fn value(&self) -> Duration {
        self.0.unwrap_or(USUAL_ROUND_TRIP)
    }
}

/// Long enough for several pieces, short enough to follow a link that changes.
const WINDOW: Duration = Duration::from_millis(100);

/// The weight of a new sample.
const SMOOTHING: f64 = 0.3;

/// What a sample moves the median by.
const STEP: f64 = 0.02;

/// Taken for granted before the first echo.
const USUAL_ROUND_TRIP: Duration = Duration::from_millis(4);

/// A peer that echoes later than this is not served better by longer queues.
const LONGEST_ROUND_TRIP: Duration = Duration::from_millis(250);

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test may read the clock, once
mod tests {
    use super::*;

    #[test]
    fn idle_time_does_not_count() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        let at = |millis| start + Duration::from_millis(millis);
        meter.begin(at(0));
        assert_eq!(meter.land(at(100), 1000), Some(10_000.0));
        meter.end();
        assert_eq!(meter.land(at(5000), 1000), None, "nothing was to be done");
        meter.begin(at(9000));
        assert_eq!(meter.land(at(9100), 1000), Some(10_000.0));
    }

    #[test]
    fn a_minority_of_slow_links_does_not_change_what_is_usual() {
        let mut usual = Usual::default();
        let learnt = [100.0, 10.0, 100.0].repeat(200).into_iter().map(|sample| usual.learn(sample));
        assert!(learnt.skip(300).all(|usual| (80.0..=110.0).contains(&usual)));
    }

    #[test]
    fn one_late_echo_moves_the_round_trip_little() {
        let mut round_trip = RoundTrip::default();
        round_trip.learn(Duration::from_millis(8));
        round_trip.learn(Duration::from_millis(24));
        assert_eq!(round_trip.value(), Duration::from_millis(10));
    }
}
