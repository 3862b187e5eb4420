//! What an operator does to a region that runs: changes its daemons' files, and lets them be
//! started again.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Curl, FrontDoor};
use crate::process;
use crate::region::Region;
use crate::{http, wait};

impl Region<'_> {
    /// Ends the peers, the seed among them, and waits until they are back.
    pub fn restart_peers(&self) -> Result<()> {
        restart(&self.peer_daemons())
    }

    /// Has all daemons log at TRACE.
    pub fn log_everything(&self) -> Result<()> {
        let mut all = self.peer_daemons();
        all.extend(["manager", "scheduler"].map(|name| self.daemon(name)));
        for daemon in &all {
            daemon.change("level = \"info\"", "level = \"trace\"")?;
        }
        restart(&all)
    }

    /// Opens the sni door of each peer, at port 443 of an address of its own.
    pub fn open_sni_doors(&mut self) -> Result<()> {
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "443").context("open low ports")?;
        for (index, peer) in (0..).zip(&mut self.addresses.peers) {
            let address = Ipv4Addr::new(10, 98, 0, index + 1);
            add_address(address)?;
            peer.sni = Some(IpAddr::V4(address));
        }
        let all = self.peer_daemons();
        for (daemon, peer) in all.iter().zip(&self.addresses.peers) {
            let door = format!("[door]\nsni_listen = \"{}:443\"", peer.sni()?);
            daemon.change("[door]", &door)?;
        }
        restart(&all)
    }

    /// Waits until the registry itself answers at each peer's door.
    pub fn wait_for_registry(&self) -> Result<()> {
        for peer in &self.addresses.peers {
            let curl = Curl { stage: self.stage, peer, front_door: FrontDoor::Mirror, authorization: None };
            wait::until("the registry's word", RESTART_TIMEOUT, || {
                Ok((curl.get("")?.status == 401).then_some(()))
            })?;
        }
        Ok(())
    }

    fn peer_daemons(&self) -> Vec<Daemon> {
        self.addresses.peers.iter().map(|peer| self.daemon(&peer.name)).collect()
    }

    fn daemon(&self, name: &str) -> Daemon {
        Daemon { name: name.to_owned(), config: self.dir().join(name).join("config.toml") }
    }
}

/// A daemon that `flotilla up` has started and starts again when it ends.
struct Daemon {
    name: String,
    config: PathBuf,
}

impl Daemon {
    fn change(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(&self.config).context("read configuration")?;
        ensure!(text.contains(from), "the configuration of {} has no {from}:\n{text}", self.name);
        fs::write(&self.config, text.replacen(from, to, 1)).context("write configuration")
    }

    /// The process that was started with its configuration, if one runs.
    fn pid(&self) -> Result<Option<Pid>> {
        let name = self.config.to_string_lossy();
        for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that is gone by now was not it.
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if command.split(|byte| *byte == 0).any(|word| word == name.as_bytes()) {
                return Ok(Some(process::pid(id)));
            }
        }
        Ok(None)
    }

    fn is_ready(&self) -> Result<bool> {
        let text = fs::read_to_string(&self.config).context("read configuration")?;
        let (_, admin) = text.split_once("[admin]\nlisten = \"").context("no admin address")?;
        let (admin, _) = admin.split_once('"').context("no admin address")?;
        let answer = http::get(&format!("http://{admin}/readyz"), Duration::from_secs(2));
        Ok(answer.is_ok_and(|answer| answer.status == 200))
    }
}

/// Ends the daemons and waits until each is back.
fn restart(daemons: &[Daemon]) -> Result<()> {
    let mut before = Vec::new();
    for daemon in daemons {
        let pid = daemon.pid()?.with_context(|| format!("{} does not run", daemon.name))?;
        kill_process(pid, Signal::TERM).with_context(|| format!("end {}", daemon.name))?;
        before.push(pid);
    }
    for (daemon, before) in daemons.iter().zip(before) {
        wait::until(&format!("{} again", daemon.name), RESTART_TIMEOUT, || {
            let is_back = daemon.pid()?.is_some_and(|pid| pid != before) && daemon.is_ready()?;
            Ok(is_back.then_some(()))
        })?;
    }
    Ok(())
}

fn add_address(address: Ipv4Addr) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["addr", "add", &format!("{address}/32"), "dev", "lo"]);
    let output = command.output().context("run ip")?;
    ensure!(output.status.success(), "add {address}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

const RESTART_TIMEOUT: Duration = Duration::from_secs(60);
