//! How long a control round trip to one peer takes: now and then a batch carries a number that
//! the peer sends back at once.

use std::time::{Duration, Instant};

/// The probes of one peer's stream; one is under way at a time.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    last: u64,
    /// When the last was sent; the next goes [`EVERY`] later, but not before its echo.
    sent_at: Option<Instant>,
    awaited: bool,
}

impl Probe {
    /// What a batch that is sent now is to carry: a number, or 0 where it carries no probe.
    pub(crate) fn next(&mut self, now: Instant) -> u64 {
        let is_early = self.sent_at.is_some_and(|at| now.saturating_duration_since(at) < EVERY);
        if self.awaited || is_early {
            return 0;
        }
        self.last += 1;
        (self.sent_at, self.awaited) = (Some(now), true);
        self.last
    }

    /// A batch came with this echo. When its probe was sent, if it is the one that is awaited.
    pub(crate) fn answered(&mut self, echo: u64) -> Option<Instant> {
        if !self.awaited || echo != self.last {
            return None;
        }
        self.awaited = false;
        self.sent_at
    }
}

/// Often enough to follow a control plane under load, seldom enough to cost it nothing.
const EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test may read the clock, once
mod tests {
    use super::*;

    #[test]
    fn one_probe_is_under_way_at_a_time_and_only_its_echo_counts() {
        let (start, mut probe) = (Instant::now(), Probe::default());
        assert_eq!(probe.answered(0), None);
        assert_eq!((probe.next(start), probe.next(start + 2 * EVERY)), (1, 0));
        assert_eq!((probe.answered(0), probe.answered(2)), (None, None));
        assert_eq!(probe.answered(1), Some(start));
        assert_eq!(probe.answered(1), None);
        assert_eq!((probe.next(start + EVERY / 2), probe.next(start + EVERY)), (0, 2));
    }
}
