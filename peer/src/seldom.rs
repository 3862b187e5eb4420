//! Log lines that anybody outside can bring about: said once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When something was said last.
#[derive(Debug)]
pub(crate) struct Seldom {
    pause: Duration,
    /// Held for a comparison.
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    pub(crate) fn every(pause: Duration) -> Self {
        Self { pause, last: Mutex::default() }
    }

    /// Whether it may be said once more: then it counts as said.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= self.pause);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_not_said_again_for_a_while() {
        const PAUSE: Duration = Duration::from_secs(60);
        let (seldom, start) = (Seldom::every(PAUSE), Instant::now());
        assert!(seldom.is_due_at(start));
        assert!(!seldom.is_due_at(start) && !seldom.is_due_at(start + PAUSE / 2));
        assert!(seldom.is_due_at(start + PAUSE) && !seldom.is_due_at(start + PAUSE));
    }
}
