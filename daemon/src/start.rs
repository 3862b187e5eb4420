//! Starting while the world is not ready: what is missing outside the daemon is waited for.
//!
//! A wrong configuration ends a start at once, because only a person can fix it. An address
//! that this machine does not have yet, a manager that does not answer, a disk that is not
//! mounted may all be there later: then the daemon lives, is not ready, says what it waits
//! for, and goes on when it comes. Dropping the future of a start ends the wait.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::bind::BindError;
use crate::config::{AdminConfig, MetricsConfig};
use crate::systemd;
use crate::telemetry::{AdminServer, Readiness};

/// An error of a start.
pub trait MayPass: Display {
    /// Whether waiting may help; if not, the configuration or the machine must be changed.
    fn may_pass(&self) -> bool;
}

/// A daemon between its configuration and its work.
#[derive(Debug)]
pub struct Starting {
    readiness: Readiness,
    tells_systemd: TellsSystemd,
}

/// When systemd is told that the daemon has started. Units that are ordered behind it wait
/// until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TellsSystemd {
    /// When it works: commands need it.
    WhenItWorks,
    /// When it works, or has to wait: a machine's boot, and its Docker, must not hang on a
    /// manager elsewhere.
    WhenItWaits,
}

impl Starting {
    /// Nothing is there yet.
    pub fn new(readiness: Readiness, tells_systemd: TellsSystemd) -> Self {
        readiness.missing(START, "starting");
        Self { readiness, tells_systemd }
    }

    /// A daemon whose admin pages say from its first moment on what it waits for.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound, and waiting does not help; the message names the key.
    pub async fn with_admin(
        admin: &AdminConfig,
        metrics: &MetricsConfig,
        tells_systemd: TellsSystemd,
    ) -> Result<(Self, AdminServer), BindError> {
        let starting = Self::new(Readiness::new(), tells_systemd);
        let start = || AdminServer::start(admin, starting.readiness.clone());
        let mut pages = starting.until("admin", start).await?;
        starting.until("metrics", || pages.bind_metrics(metrics)).await?;
        Ok((starting, pages))
    }

    /// What is missing; the daemon adds to it while it works.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Tries `attempt` until it succeeds, or fails for a reason that will not pass. While it
    /// waits, `condition` is missing, and the log says so: at once, and then once in a while.
    ///
    /// # Errors
    ///
    /// The attempt's, if waiting does not help.
    pub async fn until<T, E: MayPass>(
        &self,
        condition: &'static str,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        self.until_async(condition, || std::future::ready(attempt())).await
    }

    /// As [`Self::until`], for an attempt that takes its time.
    ///
    /// # Errors
    ///
    /// As [`Self::until`].
    pub async fn until_async<T, E: MayPass, F: Future<Output = Result<T, E>>>(
        &self,
        condition: &'static str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E> {
        let mut pause = MIN_PAUSE;
        let mut said: Option<(String, Instant)> = None;
        loop {
            let error = match attempt().await {
                Ok(value) => {
                    if said.is_some() {
                        tracing::info!("{condition}: no longer missing");
                        self.readiness.met(condition);
                        systemd::status("starting");
                    }
                    return Ok(value);
                }
                Err(error) if error.may_pass() => error.to_string(),
                Err(error) => return Err(error),
            };
            let is_news = said.as_ref().is_none_or(|(last, at)| *last != error || at.elapsed() >= REPEAT);
            if is_news {
                tracing::warn!(waits_for = condition, "{error}; waiting");
                self.readiness.missing(condition, &*error);
                self.tell_systemd(&error);
                said = Some((error, Instant::now()));
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The daemon does its work from here on.
    pub fn done(self) {
        self.readiness.met(START);
        systemd::ready("running");
    }

    fn tell_systemd(&self, error: &str) {
        let status = format!("waiting: {error}");
        match self.tells_systemd {
            TellsSystemd::WhenItWorks => systemd::status(&status),
            TellsSystemd::WhenItWaits => systemd::ready(&status),
        }
    }
}

/// Whether an error of the file system may pass: a disk that is mounted later, one that is
/// full or read-only. That a path leads through a file, or is another user's, will not.
pub fn io_may_pass(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    !matches!(
        error.kind(),
        Kind::PermissionDenied
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::AlreadyExists
            | Kind::InvalidInput
            | Kind::InvalidFilename
    )
}

/// The condition of every start, in `/readyz`.
const START: &str = "start";

const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// What is still missing is said again.
const REPEAT: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, thiserror::Error)]
    enum Trouble {
        #[error("no route")]
        Passing,
        #[error("no such thing")]
        Lasting,
    }

    impl MayPass for Trouble {
        fn may_pass(&self) -> bool {
            *self == Self::Passing
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_outside_is_waited_for_and_shown_meanwhile() {
        let readiness = Readiness::new();
        let starting = Starting::new(readiness.clone(), TellsSystemd::WhenItWaits);
        let mut attempts = 0;
        let found = starting.until("network", || {
            attempts += 1;
            if attempts > 1 {
                assert_eq!(readiness.unmet()["network"], "no route");
            }
            if attempts < 50 { Err(Trouble::Passing) } else { Ok(attempts) }
        });
        assert_eq!(found.await, Ok(50));
        assert_eq!(readiness.unmet().into_keys().collect::<Vec<_>>(), [START]);
        starting.done();
        assert!(readiness.unmet().is_empty());
    }

    #[tokio::test]
    async fn what_will_not_pass_ends_the_start_at_once() {
        let starting = Starting::new(Readiness::new(), TellsSystemd::WhenItWorks);
        let refused = starting.until("store", || Err::<(), _>(Trouble::Lasting)).await;
        assert_eq!(refused, Err(Trouble::Lasting));
    }
}
