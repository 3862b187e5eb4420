//! Whether a daemon can do its work, as named conditions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The conditions a daemon needs before it is ready; a clone is the same set. A condition
/// may be lost again.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// Guards the reasons alone and is held for one map operation.
    reason_by_condition: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// No condition, so ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The condition does not hold; `reason` says what it waits for.
    pub fn missing(&self, condition: &'static str, reason: impl Into<String>) {
        self.lock().insert(condition, reason.into());
    }

    /// The condition holds.
    pub fn met(&self, condition: &'static str) {
        self.lock().remove(condition);
    }

    /// Every condition that does not hold, with its reason. Empty: ready.
    pub fn unmet(&self) -> BTreeMap<&'static str, String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.reason_by_condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
