//! Programs a story starts: each has a log of its own, and none outlives its story.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running program. Dropped, it is told to end (SIGTERM), then made to.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Output,
}

/// The files a program's words go to.
#[derive(Debug, Clone)]
pub struct Output {
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// How long it ran.
    pub took: Duration,
    output: Output,
}

impl Process {
    /// Starts `command`; it writes to `<logs>/<name>.out` and `.err`.
    pub fn start(logs: &Path, name: &str, mut command: Command) -> Result<Self> {
        let output =
            Output { stdout: logs.join(format!("{name}.out")), stderr: logs.join(format!("{name}.err")) };
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&output.stdout).context("create log")?)
            .stderr(File::create(&output.stderr).context("create log")?)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, output })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        pid(self.child.id())
    }

    /// What it wrote.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Fails if the program has ended: a server that a story waits for must not.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait().context("wait for child")? {
            None => Ok(()),
            Some(status) => bail!("{} ended early ({status})\n{}", self.name, self.output.tail()),
        }
    }

    /// Waits until the program ends by itself.
    ///
    /// # Errors
    /// If it has not within `deadline`; it is stopped then.
    pub fn finish(mut self, deadline: Duration) -> Result<Finished> {
        let start = Instant::now();
        let status = wait::until(&format!("end of {}", self.name), deadline, || Ok(self.child.try_wait()?))
            .with_context(|| self.output.tail())?;
        Ok(Finished { name: self.name.clone(), status, took: start.elapsed(), output: self.output.clone() })
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        let ended = wait::until("end after SIGTERM", TERM_TIMEOUT, || Ok(self.child.try_wait()?));
        if ended.is_err() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("stop {}: {error:#}", self.name);
        }
    }
}

/// Runs `command` to its end; it writes to `<logs>/<name>.out` and `.err`.
pub fn run(logs: &Path, name: &str, command: Command, deadline: Duration) -> Result<Finished> {
    Process::start(logs, name, command)?.finish(deadline)
}

impl Finished {
    /// What it wrote to standard output.
    ///
    /// # Errors
    /// If it did not end with status 0.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{} failed ({})\n{}", self.name, self.status, self.output.tail());
        }
        self.output.stdout()
    }

    /// What it wrote to both outputs, however it ended.
    pub fn said(&self) -> Result<String> {
        Ok(self.output.stdout()? + &self.output.stderr()?)
    }

    /// What it wrote to standard error.
    ///
    /// # Errors
    /// If it ended with status 0, or by a signal: a refusal is an exit.
    pub fn refusal(self) -> Result<String> {
        if self.status.success() || self.status.signal().is_some() {
            bail!("{} should have refused ({})\n{}", self.name, self.status, self.output.tail());
        }
        self.output.stderr()
    }
}

impl Output {
    /// Standard output so far.
    pub fn stdout(&self) -> Result<String> {
        fs::read_to_string(&self.stdout).context("read stdout")
    }

    /// Standard error so far.
    pub fn stderr(&self) -> Result<String> {
        fs::read_to_string(&self.stderr).context("read stderr")
    }

    /// The path of the file that takes standard output.
    pub fn stdout_path(&self) -> &Path {
        &self.stdout
    }

    /// The last lines of both.
    pub fn tail(&self) -> String {
        tail(&self.stdout) + &tail(&self.stderr)
    }
}

/// The last lines of a log, behind its name; empty if there are none.
pub fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(|line| line.chars().take(TAIL_COLUMNS).collect()).collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if shown.is_empty() { String::new() } else { format!("--- {}\n{}\n", log.display(), shown.join("\n")) }
}

/// A process id as the kernel gave it.
pub(crate) fn pid(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("the kernel's ids are positive i32")
}

const TAIL_LINES: usize = 25;
const TAIL_COLUMNS: usize = 400;
/// dockerd needs a few seconds to stop its containerd.
const TERM_TIMEOUT: Duration = Duration::from_secs(15);
