//! A machine that a real systemd has booted, with the package installed.
//!
//! Process 1 is Debian's systemd, in process, mount, host-name and control-group namespaces of its
//! own, over a root that debootstrap made. Its network is the region's, or one of its own beside it.

mod boot;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

pub use boot::boot;

use crate::process::{self, Process};
use crate::stage::{Side, Stage};
use crate::wait;

/// A running machine. Dropped, it loses power.
#[derive(Debug)]
pub struct Machine<'a> {
    stage: &'a Stage,
    name: &'static str,
    /// Of its control group, which no other machine of this host has.
    group: String,
    init: Pid,
    /// Ends with process 1, and nothing else ends it.
    unshare: Process,
}

/// What makes a machine.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Its host name.
    pub name: &'static str,
    /// The name of the network namespace it is in; unset, the region's.
    pub network: Option<&'a str>,
    /// The lines of its `/etc/hosts`, beside `localhost` and its own name's.
    pub hosts: &'a str,
    /// The file of its `/etc/resolv.conf`.
    pub resolver: &'a str,
}

impl<'a> Machine<'a> {
    /// Boots a machine over the root `base` and waits until systemd calls it running.
    pub fn boot(stage: &'a Stage, base: &Path, plan: &Plan<'_>) -> Result<Self> {
        let group = format!("{}-{:08x}", plan.name, fastrand::u32(..));
        let dir = Path::new("/run/machines").join(plan.name);
        for part in ["upper/etc", "work", "root"] {
            fs::create_dir_all(dir.join(part)).context("create the machine's directory")?;
        }
        let etc = dir.join("upper/etc");
        fs::write(etc.join("hostname"), format!("{}\n", plan.name))?;
        fs::write(etc.join("hosts"), format!("127.0.0.1 localhost {}\n{}", plan.name, plan.hosts))?;
        fs::write(etc.join("resolv.conf"), plan.resolver)?;

        let network =
            plan.network.map_or("/proc/self/ns/net".to_owned(), |name| format!("/run/netns/{name}"));
        let mut command = stage.command(Side::Client, "nsenter");
        command.arg(format!("--net={network}"));
        // The groups first: the name space makes them its root.
        command
            .args(["sh", "-ec", &boot::in_own_groups(&group), "sh"])
            .args(["unshare", "--mount", "--propagation", "private", "--pid", "--uts", "--ipc", "--cgroup"])
            .args(["--fork", "--kill-child"])
            .arg(std::env::current_exe().context("find this binary")?)
            .arg("boot-machine")
            .args([base, &dir]);
        let mut unshare = Process::start(&stage.logs(), plan.name, command)?;
        let init = wait::until("process 1 of the machine", BOOT_TIMEOUT, || {
            unshare.check_running()?;
            Ok(first_process(unshare.pid()))
        })?;
        let machine = Self { stage, name: plan.name, group, init, unshare };
        machine.wait_until_running()?;
        Ok(machine)
    }

    fn wait_until_running(&self) -> Result<()> {
        let state = wait::until("the machine's systemd", BOOT_TIMEOUT, || {
            // Until systemd listens, nobody answers.
            let state = self.answer("systemctl is-system-running")?.1;
            Ok(["running", "degraded"].contains(&state.as_str()).then_some(state))
        })?;
        if state != "running" {
            let failed = self.sh("systemctl --failed --plain --no-legend --no-pager")?;
            anyhow::bail!("{} booted, but {failed}", self.name);
        }
        Ok(())
    }

    /// Runs a shell's `script` on the machine as root; returns what it printed, trimmed.
    ///
    /// # Errors
    /// If it did not end with status 0: what it said then.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.sh_within(script, SCRIPT_TIMEOUT)
    }

    /// The same for what takes long.
    pub fn sh_within(&self, script: &str, deadline: Duration) -> Result<String> {
        let finished = process::run(&self.stage.logs(), &self.log_name(), self.shell(script), deadline)
            .with_context(|| format!("on {}: {script}", self.name))?;
        let printed = finished.success().with_context(|| format!("on {}: {script}", self.name))?;
        Ok(printed.trim_end().to_owned())
    }

    /// Runs `script`, however it ends: whether that was well, and what it printed to both outputs.
    pub fn answer(&self, script: &str) -> Result<(bool, String)> {
        let command = self.shell(&format!("exec 2>&1; {script}"));
        let finished = process::run(&self.stage.logs(), &self.log_name(), command, SCRIPT_TIMEOUT)?;
        Ok((finished.status.success(), finished.said()?.trim_end().to_owned()))
    }

    /// One property of a unit, as `systemctl show` has it.
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        self.sh(&format!("systemctl show --value --property={property} {unit}"))
    }

    /// Waits until `unit` runs as another process than `before`, and is ready.
    pub fn wait_restarted(&self, unit: &str, before: &str, deadline: Duration) -> Result<()> {
        wait::until(&format!("{unit} again"), deadline, || {
            let (pid, state) = (self.property(unit, "MainPID")?, self.property(unit, "ActiveState")?);
            Ok((pid != before && pid != "0" && state == "active").then_some(()))
        })
    }

    /// What a unit has said, without the journal's own columns.
    pub fn journal(&self, unit: &str) -> Result<String> {
        self.sh(&format!("journalctl --no-pager --output=cat --unit={unit}"))
    }

    /// Where the file that the machine calls `path` is for this process.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init.as_raw_nonzero()))
    }

    /// Brings a file to the machine, as `scp` would.
    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        fs::copy(from, self.file(to)).map(drop).with_context(|| format!("copy {}", from.display()))
    }

    /// A command in all of the machine's namespaces.
    fn shell(&self, script: &str) -> std::process::Command {
        let mut command = self.stage.command(Side::Client, "nsenter");
        command.args(["--target", &self.init.as_raw_nonzero().to_string(), "--all"]);
        command.args(["sh", "-euc", &format!("cd /root; {script}")]).env("HOME", "/root").current_dir("/");
        command
    }

    fn log_name(&self) -> String {
        format!("{}-sh", self.name)
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // A story that failed shows how the journal ends.
        let journal = self.answer("journalctl --no-pager --output=short-iso").unwrap_or_default().1;
        let kept = fs::write(self.stage.logs().join(format!("{}-journal.out", self.name)), journal);
        let killed = kill_process(self.init, Signal::KILL);
        if let (Err(error), _) | (_, Err(error)) = (kept, killed.map_err(std::io::Error::from)) {
            eprintln!("end {}: {error}", self.name);
        }
        let ended = wait::until("power off", BOOT_TIMEOUT, || Ok(self.unshare.check_running().err()));
        if let Err(error) = ended {
            eprintln!("end {}: {error:#}", self.name);
        }
        boot::remove_control_groups(&self.group);
    }
}

/// Process 1, once its parent has become `unshare`: the shell before that has children, too.
fn first_process(parent: Pid) -> Option<Pid> {
    let id = parent.as_raw_nonzero();
    if fs::read_to_string(format!("/proc/{id}/comm")).ok()? != "unshare\n" {
        return None;
    }
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(process::pid)
}

/// The package's root: where the machine's base is, in a directory that is kept.
pub fn base(cache: &Path) -> Result<PathBuf> {
    crate::base::root(cache, "machine", &["systemd", "systemd-sysv", "dbus", "iproute2", "curl", "procps"])
}

/// Builds the `.deb` of the executable under test, as `docker/package/build` does for anyone.
pub fn build_package(executable: &Path, into: &Path) -> Result<()> {
    let checkout = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut command = std::process::Command::new("docker/package/build");
    command.arg("deb").current_dir(checkout).env("EXECUTABLE", executable).env("OUT", into);
    let output = command.output().context("run docker/package/build")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "docker/package/build deb: {}", String::from_utf8_lossy(&said));
    Ok(())
}

const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);
