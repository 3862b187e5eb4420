//! The region's child processes: one that dies before the region stands ends everything, one
//! that dies later is started again.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local::child::{Child, Program};

/// The children, each kept by a task of its own.
///
/// They end when this is dropped; [`Fleet::stop`] waits for their end.
pub(crate) struct Fleet {
    stop: CancellationToken,
    settled: watch::Sender<bool>,
    deaths: mpsc::Receiver<EarlyDeath>,
    report_death: mpsc::Sender<EarlyDeath>,
    keepers: JoinSet<()>,
}

impl Fleet {
    /// No children yet.
    pub(crate) fn new() -> Self {
        let (report_death, deaths) = mpsc::channel(1);
        let (settled, _) = watch::channel(false);
        Self { stop: CancellationToken::new(), settled, deaths, report_death, keepers: JoinSet::new() }
    }

    /// Starts `program` and keeps it.
    pub(crate) fn start(&mut self, program: Program) -> Result<(), StartError> {
        let started = program.set_old_log_aside().and_then(|()| Child::start(&program));
        let child = started.map_err(|source| StartError { name: program.name.clone(), source })?;
        let keeper = Keeper {
            program,
            stop: self.stop.clone(),
            settled: self.settled.subscribe(),
            report_death: self.report_death.clone(),
        };
        self.keepers.spawn(keeper.keep(child));
        Ok(())
    }

    /// Does `work`, unless a child dies before it is done.
    pub(crate) async fn unless_one_dies<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, EarlyDeath> {
        tokio::select! {
            Some(death) = self.deaths.recv() => Err(death),
            done = work => Ok(done),
        }
    }

    /// The region stands: who dies from here on is started again.
    pub(crate) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Ends all children at once and waits for them, at most [`STOP_WITHIN`].
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.keepers.join_next().await.is_some() {}
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What keeps one child.
struct Keeper {
    program: Program,
    stop: CancellationToken,
    settled: watch::Receiver<bool>,
    report_death: mpsc::Sender<EarlyDeath>,
}

impl Keeper {
    async fn keep(self, mut child: Child) {
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let Some(status) = self.stop.run_until_cancelled(child.ended()).await else {
                return child.stop(STOP_WITHIN).await;
            };
            let status = status.map_or_else(|error| error.to_string(), describe);
            if !*self.settled.borrow() {
                let death =
                    EarlyDeath { name: self.program.name.clone(), status, log: self.program.log_tail() };
                // One death is enough: where the queue is full, another child was first.
                self.report_death.try_send(death).ok();
                return;
            }
            let Some(again) = self.start_again(&mut backoff, started.elapsed(), &status).await else {
                return;
            };
            child = again;
        }
    }

    /// The child, started again after a pause; `None` if all is to stop.
    async fn start_again(&self, backoff: &mut Backoff, lived: Duration, status: &str) -> Option<Child> {
        let Program { name, .. } = &self.program;
        let mut pause = backoff.after(lived);
        eprintln!("{name} {status}; it starts again in {pause:?} (log: {})", self.program.log().display());
        loop {
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
            match Child::start(&self.program) {
                Ok(child) => return Some(child),
                Err(error) => {
                    pause = backoff.after(Duration::ZERO);
                    eprintln!("{name} cannot start: {error}; the next attempt is in {pause:?}");
                }
            }
        }
    }
}

/// How long a child that died waits: twice as long each time, from the start again once it
/// has lived for [`STEADY_AFTER`].
#[derive(Default)]
struct Backoff {
    deaths: u32,
}

impl Backoff {
    fn after(&mut self, lived: Duration) -> Duration {
        if lived >= STEADY_AFTER {
            self.deaths = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.deaths.min(MAX_DOUBLINGS));
        self.deaths += 1;
        pause
    }
}

fn describe(status: ExitStatus) -> String {
    format!("ended ({status})")
}

/// The daemons drain for less; together with what follows, Ctrl-C ends all within 10 s.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// Pause before the first restart.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause is `FIRST_PAUSE` × 2⁵, 6.4 s.
const MAX_DOUBLINGS: u32 = 5;

/// A child that lived this long had no trouble starting.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// A child that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start {name}")]
pub(crate) struct StartError {
    name: String,
    source: std::io::Error,
}

/// A child that died before the region stood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} {status}; its log ends:\n{log}")]
pub(crate) struct EarlyDeath {
    name: String,
    status: String,
    log: String,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::future::pending;
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn a_child_that_dies_early_ends_the_work_and_says_how() {
        let home = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::new();
        fleet.start(shell("steady", home.path(), "cat")).unwrap();
        fleet.start(shell("weak", home.path(), "echo 'port 1 is in use' >&2; exit 3")).unwrap();
        let death = fleet.unless_one_dies(pending::<()>()).await.unwrap_err();
        assert_eq!(death.to_string(), "weak ended (exit status: 3); its log ends:\n  port 1 is in use");
        fleet.stop().await;
    }

    #[tokio::test]
    async fn a_child_that_dies_later_is_started_again() {
        let home = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::new();
        // Each life writes one byte and waits; the first is killed once the fleet has settled.
        let lives = home.path().join("lives");
        let script = format!("echo $$ >> {}; cat", lives.display());
        fleet.start(shell("phoenix", home.path(), &script)).unwrap();
        let first = pids(&lives, 1).await[0].clone();
        fleet.settle();
        kill(&first);
        let second = pids(&lives, 2).await[1].clone();
        assert_ne!(first, second);
        fleet.stop().await;
        assert!(!Path::new("/proc").join(&second).exists());
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let home = tempfile::tempdir().unwrap();
        let missing = Program::new("ghost", Path::new("/no/such/program"), [""; 0], home.path().join("log"));
        assert_eq!(Fleet::new().start(missing).unwrap_err().to_string(), "start ghost");
    }

    #[test]
    fn the_pause_before_a_restart_doubles_up_to_a_bound_and_falls_back_after_a_steady_life() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 6400, 6400]);
        assert_eq!(backoff.after(STEADY_AFTER), FIRST_PAUSE);
    }

    fn shell(name: &str, home: &Path, script: &str) -> Program {
        Program::new(name, Path::new("/bin/sh"), ["-c", script], home.join(format!("{name}.log")))
    }

    fn kill(pid: &str) {
        assert!(
            std::process::Command::new("/bin/sh").args(["-c", "kill -9 $0", pid]).status().unwrap().success()
        );
    }

    /// The lines of `file`, once there are `count`.
    async fn pids(file: &Path, count: usize) -> Vec<String> {
        let poll = async {
            loop {
                let text = fs::read_to_string(file).unwrap_or_default();
                if text.ends_with('\n') && text.lines().count() >= count {
                    return text.lines().map(str::to_owned).collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), poll).await.expect("the child writes its line")
    }
}
