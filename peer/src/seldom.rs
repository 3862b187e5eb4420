//! Log lines that anybody outside can bring about: said once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When something was said last.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it may be said once more: then it counts as said.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

const PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_not_said_again_for_a_while() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        assert!(seldom.is_due_at(start));
        assert!(!seldom.is_due_at(start) && !seldom.is_due_at(start + PAUSE / 2));
        assert!(seldom.is_due_at(start + PAUSE) && !seldom.is_due_at(start + PAUSE));
    }
}
