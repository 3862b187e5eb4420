//! How often and how long one place is tried: which endpoint is next, how long it may take, when it is enough.
//!
//! The rule: so long without a byte ([`NO_BYTE_LIMIT`], or what is configured once the reading has begun), and
//! at most [`MAX_FAILURES`] in a row of those that waiting does not cure. Any byte restarts the clock; only a
//! whole piece's worth of needed bytes forgives the failures, so that a registry which sends a trickle, or the
//! same beginning again, is not asked for ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::EndpointClient;
use super::failure::EndpointFailure;
use super::roster::Candidate;

/// The state of trying one place.
pub(super) struct Attempts {
    /// Bytes that forgive the failures before.
    forgiving_bytes: u64,
    bytes_since_failure: u64,
    failures: u32,
    /// Those among them that say more than that nobody is there.
    telling_failures: u32,
    rotation: usize,
    /// When the wait for a byte of it began; `None` while it is not waited for.
    waiting_since: Option<Instant>,
    /// It is left alone until then.
    not_before: Option<Instant>,
    /// How often it was left for another place because it gave no header.
    passed_over: u32,
    /// Whether the last answer was given less time than it would have had alone.
    hurried: bool,
    /// Endpoints whose answer will not get better by asking again, by name.
    struck: HashSet<String>,
}

impl Attempts {
    pub(super) fn new(forgiving_bytes: u64) -> Self {
        Self {
            forgiving_bytes,
            bytes_since_failure: 0,
            failures: 0,
            telling_failures: 0,
            rotation: 0,
            waiting_since: None,
            not_before: None,
            passed_over: 0,
            hurried: false,
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

    /// How long the answer may take in all: an even share of the time that was left when it was asked for, for
    /// each endpoint not tried yet, and where another place waits its turn no more than a patience that grows
    /// each time.
    pub(super) fn share(&mut self, candidate: &Candidate, waiting: Waiting) -> Duration {
        let Waiting { limit, asked_for, budget, is_rivalled } = waiting;
        let endpoints = u32::try_from(self.usable(candidate).len()).unwrap_or(u32::MAX);
        let untried = endpoints.saturating_sub(self.failures).max(1);
        let share = limit.min((self.time_left(budget) + asked_for) / untried);
        let patience = RIVALLED_PATIENCE * 2_u32.saturating_pow(self.passed_over.min(5));
        self.hurried = is_rivalled && patience < share;
        if self.hurried { patience } else { share }
    }

    /// How long there may be no byte, of so long in all.
    pub(super) fn time_left(&self, budget: Duration) -> Duration {
        self.waiting_since.map_or(budget, |since| budget.saturating_sub(since.elapsed()))
    }

    /// Until when it is left alone, if it is.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before.filter(|until| Instant::now() < *until)
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// It is asked.
    pub(super) fn asked(&mut self) {
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// Bytes came, of which so many were needed.
    pub(super) fn progressed(&mut self, needed_bytes: u64) {
        self.resumed();
        self.bytes_since_failure += needed_bytes;
        if self.bytes_since_failure >= self.forgiving_bytes {
            (self.failures, self.telling_failures, self.passed_over) = (0, 0, 0);
        }
    }

    /// Time passed for which the registry is not to blame.
    pub(super) fn resumed(&mut self) {
        self.waiting_since = Some(Instant::now());
    }

    /// Takes note of a failure: how long the place is left alone then, or that it is enough. Not at all
    /// while another of its endpoints is untried, then longer each round, or as long as the registry asks for.
    pub(super) fn failed(
        &mut self,
        candidate: &Candidate,
        endpoint: &EndpointClient,
        failure: &EndpointFailure,
        budget: Duration,
    ) -> Result<Duration, Enough> {
        // Silence says little of who was not waited for.
        let is_passed_over = matches!(failure, EndpointFailure::NoHeader { .. }) && self.hurried;
        if failure.is_outage() && !is_passed_over {
            endpoint.seems_down();
        }
        if !failure.is_passing() {
            self.struck.insert(endpoint.name().to_owned());
        }
        self.failures += 1;
        self.rotation += 1;
        self.bytes_since_failure = 0;
        self.passed_over += u32::from(matches!(failure, EndpointFailure::NoHeader { .. }));
        self.telling_failures += u32::from(!failure.is_nobody_there());
        let usable = u32::try_from(self.usable(candidate).len()).unwrap_or(u32::MAX);
        if usable == 0 || self.telling_failures >= MAX_FAILURES {
            return Err(Enough);
        }
        let is_round_over = self.failures.is_multiple_of(usable);
        let decent = if is_round_over { backoff(self.failures / usable) } else { Duration::ZERO };
        let pause = failure.retry_after().map_or(decent, |asked| asked.max(decent));
        if pause >= self.time_left(budget) {
            return Err(Enough);
        }
        Ok(pause)
    }

    /// It is left alone for so long.
    pub(super) fn wait(&mut self, pause: Duration) {
        self.not_before = self.not_before.max(Some(Instant::now() + pause));
    }

    /// Another place gives bytes.
    pub(super) fn not_waited_for(&mut self) {
        self.waiting_since = None;
    }
}

/// The wait for an answer.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    /// For any one answer.
    pub(super) limit: Duration,
    /// How long ago it was asked for.
    pub(super) asked_for: Duration,
    /// How long the place may give no byte.
    pub(super) budget: Duration,
    /// Whether another place may give the blob.
    pub(super) is_rivalled: bool,
}

/// A place was tried often or long enough.
pub(super) struct Enough;

/// 100 ms, doubled each round, give or take a quarter so that many seeds do not come back together.
fn backoff(round: u32) -> Duration {
    let base = FIRST_BACKOFF * 2_u32.saturating_pow(round.saturating_sub(1).min(5));
    base.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// Failures in a row that waiting does not cure.
const MAX_FAILURES: u32 = 5;
/// Before a reading's first byte: a client gets a clear error within 10 s; this leaves one for the way to it.
pub(super) const NO_BYTE_LIMIT: Duration = Duration::from_secs(9);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// For a header of one place while another has not failed: a hung registry costs those of a well one no more.
const RIVALLED_PATIENCE: Duration = Duration::from_secs(3);
