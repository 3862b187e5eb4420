//! How busy the planner's one thread is: the share of time in which the driver works
//! instead of waiting.

use std::time::{Duration, Instant};

/// Adds up work until a window is full.
#[derive(Debug)]
pub(crate) struct Load {
    window_began_at: Instant,
    busy: Duration,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { window_began_at: now, busy: Duration::ZERO }
    }

    /// The driver worked from `began_at` until `now`. The load in percent, once a [`WINDOW`]
    /// is full.
    pub(crate) fn worked(&mut self, began_at: Instant, now: Instant) -> Option<u8> {
        self.busy += now.duration_since(began_at);
        let window = now.duration_since(self.window_began_at);
        if window < WINDOW {
            return None;
        }
        let percent = 100 * self.busy.as_micros() / window.as_micros();
        *self = Self::new(now);
        Some(u8::try_from(percent.min(100)).expect("at most 100"))
    }
}

/// The planner is told its load so often: a backlog of more would hold everybody up.
pub(crate) const WINDOW: Duration = Duration::from_millis(250);

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test may read the clock, once
mod tests {
    use super::*;

    #[test]
    fn the_load_is_the_share_of_a_window_that_was_worked() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut load = Load::new(start);
        assert_eq!(load.worked(at(25), at(100)), None);
        assert_eq!(load.worked(at(225), at(250)), Some(40));
        assert_eq!(load.worked(at(250), at(650)), Some(100), "of the next window only");
    }
}
