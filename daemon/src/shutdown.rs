//! Ending in order: a token that says "end", and tasks that are awaited.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// A token that SIGTERM and SIGINT cancel. A second signal ends the process at once.
///
/// # Errors
///
/// If the process may not handle signals.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if cancelled.is_cancelled() {
                std::process::exit(EXIT_ON_SECOND_SIGNAL);
            }
            tracing::info!("stopping");
            cancelled.cancel();
        }
    });
    Ok(token)
}

/// Cancels `token` when standard input ends: a child whose stdin is a pipe from its
/// parent so ends however the parent dies.
///
/// # Errors
///
/// If no thread can be made.
pub fn watch_stdin(token: CancellationToken) -> io::Result<()> {
    // A thread of its own: a blocked read on the runtime's pool would hold up its end.
    let watch = move || {
        let mut discarded = [0; 256];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut discarded) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        token.cancel();
    };
    std::thread::Builder::new().name("stdin".into()).spawn(watch).map(drop)
}

/// The named tasks of a daemon. One that panics cancels the token, so that the process
/// ends and is started again rather than limping on without it. Dropped, it aborts them.
#[derive(Debug)]
pub struct Tasks {
    shutdown: CancellationToken,
    running: JoinSet<()>,
    name_by_id: HashMap<Id, &'static str>,
}

impl Tasks {
    /// No tasks yet; `shutdown` is what they end by.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, running: JoinSet::new(), name_by_id: HashMap::new() }
    }

    /// The token that tells all tasks to end.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Runs `task` to its own end; it must watch the token by itself.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = CancelOnPanic { name, shutdown: self.shutdown.clone() };
        let handle = self.running.spawn(async move {
            let _guard = guard;
            task.await;
        });
        self.name_by_id.insert(handle.id(), name);
    }

    /// Runs `task` until the token is cancelled, then drops it at its next await.
    pub fn spawn_until_shutdown(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            let _ended = shutdown.run_until_cancelled(task).await;
        });
    }

    /// Waits for every task, at most `deadline` in all; what still runs then is aborted.
    ///
    /// # Errors
    ///
    /// Names the tasks that panicked or were still running.
    pub async fn drain(mut self, deadline: Duration) -> Result<(), DrainError> {
        let mut panicked = Vec::new();
        let ended = tokio::time::timeout(deadline, async {
            while let Some(result) = self.running.join_next_with_id().await {
                let id = result.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
                let name = self.name_by_id.remove(&id).unwrap_or("unnamed");
                if result.is_err_and(|error| error.is_panic()) {
                    panicked.push(name);
                }
            }
        });
        let late = ended.await.is_err();
        if !panicked.is_empty() {
            return Err(DrainError::Panicked { tasks: panicked.join(", ") });
        }
        if late {
            let mut tasks: Vec<_> = self.name_by_id.values().copied().collect();
            tasks.sort_unstable();
            return Err(DrainError::Late { tasks: tasks.join(", "), deadline });
        }
        Ok(())
    }
}

struct CancelOnPanic {
    name: &'static str,
    shutdown: CancellationToken,
}

impl Drop for CancelOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "task panicked; stopping");
            self.shutdown.cancel();
        }
    }
}

/// As shells report a process that Ctrl-C ended.
const EXIT_ON_SECOND_SIGNAL: i32 = 130;

/// Why a daemon did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// An invariant of the program broke.
    #[error("panicked: {tasks}")]
    Panicked {
        /// Their names.
        tasks: String,
    },
    /// They did not end in time.
    #[error("still running after {deadline:?}: {tasks}")]
    Late {
        /// Their names.
        tasks: String,
        /// The time they had.
        deadline: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn drain_awaits_tasks_that_end_by_the_token() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn_until_shutdown("forever", std::future::pending());
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("own-end", async move { shutdown.cancelled().await });
        tasks.shutdown().cancel();
        tasks.drain(LONG).await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_daemon_and_is_named() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("fragile", async { panic!("an invariant broke") });
        tasks.spawn_until_shutdown("forever", std::future::pending());
        tasks.shutdown().cancelled().await;
        assert_eq!(tasks.drain(LONG).await.unwrap_err().to_string(), "panicked: fragile");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_in_time_is_named() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("stubborn", std::future::pending());
        let error = tasks.drain(Duration::from_secs(5)).await.unwrap_err().to_string();
        assert_eq!(error, "still running after 5s: stubborn");
    }
}
