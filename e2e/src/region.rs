//! The region under test: `flotilla up`, seen through its doors, metrics and messages.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;

use crate::http;
use crate::process::{self, Process};
use crate::stage::{REGISTRY_HOST, REGISTRY_IP, Stage};
use crate::wait;

/// A running region: manager, scheduler, one seed and its peers.
#[derive(Debug)]
pub struct Region<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) addresses: Addresses,
    _process: Process,
}

/// The line `flotilla up --json` prints when all is ready, as far as stories go.
#[derive(Debug, Deserialize)]
pub(crate) struct Addresses {
    manager: String,
    pub(crate) peers: Vec<Peer>,
}

/// One peer daemon of the region.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    /// Its name in the region.
    pub name: String,
    /// `seed` or `peer`.
    pub role: String,
    /// The URL of its front doors.
    pub door: String,
    /// The URL of its status and metrics.
    pub admin: String,
    /// The certificate authorities its proxy door shows.
    pub ca: PathBuf,
    /// The address of its sni door, port 443, if that is open.
    #[serde(skip)]
    pub sni: Option<IpAddr>,
}

/// A scrape of one daemon.
#[derive(Debug)]
pub struct Metrics(String);

impl<'a> Region<'a> {
    /// Starts a region with `peers` peers that reads from the registry, whose certificate
    /// `ca` has signed, and waits until it is ready.
    pub fn up(stage: &'a Stage, ca: &Path, peers: usize) -> Result<Self> {
        Self::up_with(stage, &format!("ca={}", ca.display()), peers)
    }

    /// Starts one that reaches the registry by its address, whatever its name resolves to.
    pub fn up_by_address(stage: &'a Stage, ca: &Path, peers: usize) -> Result<Self> {
        Self::up_with_keys(stage, ca, &format!("address={REGISTRY_IP}:443"), peers)
    }

    /// Starts one where more is said of the registry, in the keys of `flotilla up --registry`.
    pub fn up_with_keys(stage: &'a Stage, ca: &Path, keys: &str, peers: usize) -> Result<Self> {
        Self::up_with(stage, &format!("ca={},{keys}", ca.display()), peers)
    }

    fn up_with(stage: &'a Stage, keys: &str, peers: usize) -> Result<Self> {
        let dir = stage.region_dir("region")?;
        let registry = format!("{REGISTRY_HOST}=https://{REGISTRY_HOST},{keys}");
        let mut command = stage.flotilla();
        command
            .args(["up", "--registry", &registry, "--peers", &peers.to_string(), "--json", "--dir"])
            .arg(dir);
        let mut process = Process::start(&stage.logs(), "up", command)?;
        let addresses = wait::until("region ready", START_TIMEOUT, || {
            process.check_running()?;
            let text = process.output().stdout()?;
            let Some((line, _)) = text.split_once('\n') else { return Ok(None) };
            serde_json::from_str::<Addresses>(line)
                .with_context(|| format!("not its addresses: {line}"))
                .map(Some)
        })?;
        let region = Self { stage, addresses, _process: process };
        ensure!(region.peers().count() == peers, "asked for {peers} peers: {:?}", region.addresses);
        Ok(region)
    }

    /// The peers that are no seeds.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> + Clone {
        self.addresses.peers.iter().filter(|peer| peer.role == "peer")
    }

    /// The seed.
    pub fn seed(&self) -> Result<&Peer> {
        self.addresses.peers.iter().find(|peer| peer.role == "seed").context("a region has a seed")
    }

    /// A join token for one more peer, as the administrator makes it.
    pub fn peer_token(&self) -> Result<String> {
        let mut command = self.stage.flotilla();
        command.args(["token", "create", "--region", REGION, "--role", "peer"]);
        command.args(["--manager", &self.addresses.manager]);
        command.arg("--identity").arg(self.dir().join("manager/admin"));
        let said = process::run(&self.stage.logs(), "token", command, TOKEN_TIMEOUT)?.success()?;
        Ok(said.trim_end().lines().last().context("no token")?.to_owned())
    }

    /// Where it keeps state and logs.
    pub fn dir(&self) -> PathBuf {
        self.stage.path("region")
    }

    /// Fails if a daemon has logged an error: a story that ends well has none.
    pub fn assert_no_error_logged(&self) -> Result<()> {
        let mut errors = String::new();
        for log in log_files(&self.dir()) {
            let text = fs::read(&log).context("read log")?;
            for line in String::from_utf8_lossy(&text).lines().filter(|line| is_error(line)) {
                write!(errors, "\n{}: {line}", log.display())?;
            }
        }
        ensure!(errors.is_empty(), "logged at ERROR:{errors}");
        Ok(())
    }
}

impl Peer {
    /// `host:port` of its front doors.
    pub fn door_authority(&self) -> &str {
        self.door.trim_start_matches("http://").trim_end_matches('/')
    }

    /// The address of its sni door.
    pub fn sni(&self) -> Result<IpAddr> {
        self.sni.with_context(|| format!("the sni door of {} is closed", self.name))
    }

    /// What it counts at this moment.
    pub fn metrics(&self) -> Result<Metrics> {
        http::get_text(&format!("{}/metrics", self.admin)).map(Metrics)
    }

    /// The process id it states.
    pub fn pid(&self) -> Result<Pid> {
        #[derive(Deserialize)]
        struct Status {
            pid: u32,
        }
        let text = http::get_text(&format!("{}/status", self.admin))?;
        Ok(process::pid(serde_json::from_str::<Status>(&text).context("read status")?.pid))
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub fn kill9(&self) -> Result<()> {
        let pid = self.pid()?;
        kill_process(pid, Signal::KILL).context("kill peer")?;
        wait::until("death of the peer", Duration::from_secs(5), || {
            let gone = test_kill_process(pid).is_err() || is_zombie(pid);
            Ok(gone.then_some(()))
        })
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        wait::until("peer ready", START_TIMEOUT, || {
            let answer = http::get(&format!("{}/readyz", self.admin), Duration::from_secs(2));
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }
}

impl Metrics {
    /// A scrape's text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum of all series of `name` whose labels contain `label`; 0 if there is none.
    pub fn sum(&self, name: &str, label: &str) -> u64 {
        let lines = self.0.lines().filter_map(|line| line.rsplit_once(' '));
        let series = lines.filter(|(series, _)| {
            let (family, labels) = series.split_once('{').unwrap_or((series, ""));
            family == name && labels.contains(label)
        });
        series.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    }

    /// Bytes of pieces that came over the network, from peers and seeds.
    pub fn piece_bytes_fetched(&self) -> u64 {
        ["peer", "seed"].iter().map(|source| self.piece_bytes(source)).sum()
    }

    /// Bytes of pieces that came from `source`.
    pub fn piece_bytes(&self, source: &str) -> u64 {
        self.sum("flotilla_peer_piece_bytes_total", &format!("source=\"{source}\""))
    }

    /// Bytes read from the registry by this daemon.
    pub fn source_bytes(&self) -> u64 {
        self.sum("flotilla_peer_source_bytes_total", "")
    }
}

/// All log files below `dir`.
pub fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return files };
    for entry in entries.flatten() {
        let path = entry.path();
        // Links are not followed: an image that lies unpacked here has some in circles.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(log_files(&path));
        } else if LOG_NAMES.iter().any(|end| path.as_os_str().as_encoded_bytes().ends_with(end)) {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn is_error(line: &str) -> bool {
    line.contains(" ERROR ") || line.contains("\"level\":\"ERROR\"")
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|state| state.starts_with('Z'))
}

/// Of the harness's own logs, and of those that `flotilla up` keeps.
const LOG_NAMES: [&[u8]; 3] = [b".out", b".err", b"/log"];
const START_TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// What `flotilla up` calls its region.
const REGION: &str = "local";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_label() {
        let metrics = Metrics(
            "# TYPE flotilla_peer_piece_bytes counter\n\
             flotilla_peer_piece_bytes_total{source=\"store\"} 1\n\
             flotilla_peer_piece_bytes_total{source=\"peer\"} 20\n\
             flotilla_peer_piece_bytes_total{source=\"seed\"} 300\n\
             flotilla_peer_source_bytes_total 4000\n"
                .to_owned(),
        );
        assert_eq!(metrics.piece_bytes_fetched(), 320);
        assert_eq!(metrics.piece_bytes("store"), 1);
        assert_eq!(metrics.source_bytes(), 4000);
        assert_eq!(metrics.sum("flotilla_peer", ""), 0);
    }
}
