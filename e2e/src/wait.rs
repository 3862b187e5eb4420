//! Waiting for a condition, never for a duration.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `probe` until it has an answer.
///
/// # Errors
/// What `probe` fails with, at once; or, after `deadline`, that `what` did not happen.
pub fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if start.elapsed() > deadline {
            bail!("{what}: not within {} s", deadline.as_secs());
        }
        std::thread::sleep(BETWEEN_PROBES);
    }
}

/// Short beside what a story waits for, long beside what a probe costs.
const BETWEEN_PROBES: Duration = Duration::from_millis(20);
