//! How often and how long one reading tries: which endpoint is next, how long it may take, when it is enough.
//!
//! The rule: at most [`MAX_FAILURES`] failures in a row and [`NO_PROGRESS_LIMIT`] without a byte. Any byte
//! restarts the clock; only a whole piece's worth of needed bytes forgives the failures, so that a
//! registry which sends a trickle, or the same beginning again, is not asked for ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::{EndpointClient, REST_AFTER_OUTAGE};
use super::failure::EndpointFailure;
use super::roster::Candidate;

/// The state of one reading's trying.
pub(super) struct Attempts {
    /// Bytes that forgive the failures before.
    forgiving_bytes: u64,
    bytes_since_failure: u64,
    failures: u32,
    rotation: usize,
    last_progress: Instant,
    /// Endpoints whose answer will not get better by asking again, by name.
    struck: HashSet<String>,
}

impl Attempts {
    pub(super) fn new(forgiving_bytes: u64) -> Self {
        Self {
            forgiving_bytes,
            bytes_since_failure: 0,
            failures: 0,
            rotation: 0,
            last_progress: Instant::now(),
            struck: HashSet::new(),
        }
    }

    /// The endpoint to ask next. Where all are struck out it is one of them, for a last word.
    pub(super) fn endpoint(&self, candidate: &Candidate) -> Arc<EndpointClient> {
        let mut usable = self.usable(candidate);
        if usable.is_empty() {
            usable = candidate.endpoints();
        }
        if usable.iter().any(|endpoint| !endpoint.is_resting()) {
            usable.retain(|endpoint| !endpoint.is_resting());
        }
        usable.swap_remove(self.rotation % usable.len())
    }

    fn usable(&self, candidate: &Candidate) -> Vec<Arc<EndpointClient>> {
        let mut endpoints = candidate.endpoints();
        endpoints.retain(|endpoint| !self.struck.contains(endpoint.name()));
        endpoints
    }

    /// How long the next answer may take: an even share of the time left for each endpoint not tried yet.
    pub(super) fn share(&self, candidate: &Candidate, limit: Duration) -> Duration {
        let endpoints = u32::try_from(self.usable(candidate).len()).unwrap_or(u32::MAX);
        let untried = endpoints.saturating_sub(self.failures).max(1);
        limit.min(self.time_left() / untried)
    }

    /// How long there may be no byte.
    pub(super) fn time_left(&self) -> Duration {
        NO_PROGRESS_LIMIT.saturating_sub(self.last_progress.elapsed())
    }

    /// Bytes came, of which so many were needed.
    pub(super) fn progressed(&mut self, needed_bytes: u64) {
        self.resumed();
        self.bytes_since_failure += needed_bytes;
        if self.bytes_since_failure >= self.forgiving_bytes {
            self.failures = 0;
        }
    }

    /// Time passed for which the registry is not to blame.
    pub(super) fn resumed(&mut self) {
        self.last_progress = Instant::now();
    }

    /// Takes note of a failure and waits as long as seems decent: not at all while another endpoint is
    /// untried, then longer each round. `Err` when it is enough.
    pub(super) async fn failed(
        &mut self,
        candidate: &Candidate,
        endpoint: &EndpointClient,
        failure: EndpointFailure,
    ) -> Result<(), EndpointFailure> {
        if failure.is_outage() {
            endpoint.rest(REST_AFTER_OUTAGE);
        }
        if !failure.is_passing() {
            self.struck.insert(endpoint.name().to_owned());
        }
        self.count_failure();
        let usable = u32::try_from(self.usable(candidate).len()).unwrap_or(u32::MAX);
        if usable == 0 || self.failures >= MAX_FAILURES {
            return Err(failure);
        }
        let is_round_over = self.failures.is_multiple_of(usable);
        let pause = if is_round_over { backoff(self.failures / usable) } else { Duration::ZERO };
        if pause >= self.time_left() {
            return Err(failure);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Waits as long as the registry wants. `Err` with that time if it is too long.
    pub(super) async fn rate_limited(&mut self, retry_after: Option<Duration>) -> Result<(), Duration> {
        self.count_failure();
        let pause = retry_after.unwrap_or_else(|| backoff(self.failures));
        if self.failures >= MAX_FAILURES || pause >= self.time_left() {
            return Err(pause);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn count_failure(&mut self) {
        self.failures += 1;
        self.rotation += 1;
        self.bytes_since_failure = 0;
    }
}

/// 100 ms, doubled each round, give or take a quarter so that many seeds do not come back together.
fn backoff(round: u32) -> Duration {
    let base = FIRST_BACKOFF * 2_u32.saturating_pow(round.saturating_sub(1).min(5));
    base.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// Failures in a row.
const MAX_FAILURES: u32 = 5;
/// A client gets a clear error within 10 s; this leaves one for the way to it.
const NO_PROGRESS_LIMIT: Duration = Duration::from_secs(9);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
