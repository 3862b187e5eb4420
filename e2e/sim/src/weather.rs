//! Rates that vary: every node's up and down rate is drawn anew each [`EPOCH`] from a lognormal
//! of mean 1, and multiplies what the scenario gives the node.
//!
//! A draw is a function of the history's seed, the link and the epoch, so that the lower bound
//! is computed from the very rates that the network is given.

use std::time::Duration;

use flotilla_proto::mix;

/// How much rates vary, and which way they do in this history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    sigma: f64,
    seed: u64,
}

/// One direction of one node's link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hose {
    /// Different for each.
    pub(crate) number: u32,
    /// Bytes per second, on the average.
    pub(crate) bytes_per_s: f64,
}

impl Weather {
    pub(crate) const fn new(sigma: f64, seed: u64) -> Self {
        Self { sigma, seed }
    }

    pub(crate) fn varies(&self) -> bool {
        self.sigma > 0.0
    }

    /// Bytes per second in that epoch.
    pub(crate) fn rate(&self, hose: Hose, epoch: u32) -> f64 {
        if !self.varies() {
            return hose.bytes_per_s;
        }
        let place = u64::from(hose.number) << 32 | u64::from(epoch);
        let state = scramble(self.seed ^ SALT) ^ place;
        let (radius, turn) = (unit(scramble(state)), unit(scramble(state ^ SALT)));
        // Box & Muller 1958; the first draw is above zero.
        let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos();
        hose.bytes_per_s * (self.sigma * normal - self.sigma * self.sigma / 2.0).exp()
    }

    /// When these have moved so many bytes together, if each is at work from its time on.
    /// `more` bytes per second flow beside them from the start.
    pub(crate) fn time_to_move(&self, bytes: f64, hoses: &[(Hose, Duration)], more: f64) -> Duration {
        let mut left = bytes;
        for epoch in 0..EPOCHS_MAX {
            let (begins, ends) = (EPOCH * epoch, EPOCH * (epoch + 1));
            let moves = |(hose, from): &(Hose, Duration)| {
                self.rate(*hose, epoch) * ends.saturating_sub(begins.max(*from)).as_secs_f64()
            };
            let moved = hoses.iter().map(moves).sum::<f64>() + more * EPOCH.as_secs_f64();
            if moved >= left {
                return self.end_within(epoch, left, hoses, more);
            }
            left -= moved;
        }
        Duration::MAX
    }

    /// The moment in the epoch at which the rest is moved, with those counted from their time on.
    fn end_within(&self, epoch: u32, bytes: f64, hoses: &[(Hose, Duration)], more: f64) -> Duration {
        let begins = EPOCH * epoch;
        let mut starts: Vec<(Duration, f64)> =
            hoses.iter().map(|(hose, from)| (begins.max(*from), self.rate(*hose, epoch))).collect();
        starts.sort_by(|a, b| a.partial_cmp(b).expect("rates are numbers"));
        let (mut at, mut rate, mut left) = (begins, more, bytes);
        for (start, extra) in starts {
            let moved = rate * (start - at).as_secs_f64();
            if moved >= left {
                break;
            }
            (left, at, rate) = (left - moved, start, rate + extra);
        }
        at + Duration::from_secs_f64(left / rate)
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014): one number of a sequence.
fn scramble(state: u64) -> u64 {
    mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// Evenly spread over (0, 1].
fn unit(bits: u64) -> f64 {
    let numerator = u32::try_from(bits >> 32).expect("the upper half");
    (f64::from(numerator) + 1.0) / (f64::from(u32::MAX) + 1.0)
}

/// Rates stay as drawn for so long (`docs/design.md` §4).
pub(crate) const EPOCH: Duration = Duration::from_millis(200);

/// No history is as long: half an hour.
const EPOCHS_MAX: u32 = 9000;

const SALT: u64 = 0x5bd1_e995_73a8_01f3;

#[cfg(test)]
mod tests {
    use super::*;

    const HOSE: Hose = Hose { number: 3, bytes_per_s: 1e6 };

    #[test]
    fn drawn_rates_have_the_mean_and_the_spread_that_were_asked_for() {
        let weather = Weather::new(0.3, 7);
        let draws: Vec<f64> = (0..20_000)
            .map(|epoch| weather.rate(Hose { number: epoch % 100, ..HOSE }, epoch) / 1e6)
            .collect();
        let count = f64::from(20_000);
        let mean = draws.iter().sum::<f64>() / count;
        let log_square = draws.iter().map(|draw| (draw.ln() + 0.045).powi(2)).sum::<f64>() / count;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert!((log_square.sqrt() - 0.3).abs() < 0.01, "{log_square}");
    }

    #[test]
    fn equal_seeds_draw_alike_and_others_do_not() {
        let draw = |seed| Weather::new(0.3, seed).rate(HOSE, 5);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn steady_hoses_move_bytes_at_the_sum_of_their_rates_from_when_they_start() {
        let weather = Weather::new(0.0, 1);
        let from = |millis| (HOSE, Duration::from_millis(millis));
        let time = |bytes, hoses: &[_], more| weather.time_to_move(bytes, hoses, more).as_secs_f64();
        assert!((time(2e6, &[from(0), from(0)], 0.0) - 1.0).abs() < 1e-9);
        assert!((time(2e6, &[from(0), from(500)], 0.0) - 1.25).abs() < 1e-9);
        assert!((time(2e6, &[from(0)], 1e6) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_varying_hoses_move_is_the_integral_of_their_rates() {
        let weather = Weather::new(0.3, 9);
        let first_two = (weather.rate(HOSE, 0) + weather.rate(HOSE, 1)) * EPOCH.as_secs_f64();
        let time = weather.time_to_move(first_two, &[(HOSE, Duration::ZERO)], 0.0);
        assert!((time.as_secs_f64() - 0.4).abs() < 1e-6, "{time:?}");
    }
}
