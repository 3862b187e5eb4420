//! containerd with a root, state and socket of its own, and `ctr`, which does the fetching.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use flotilla_proto::Digest;

use super::{FrontDoor, PULL_TIMEOUT, Pull, START_TIMEOUT, digests};
use crate::process::{self, Finished, Process};
use crate::stage::{REGISTRY_HOST, Side, Stage};
use crate::wait;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd<'a> {
    stage: &'a Stage,
    dir: PathBuf,
    _process: Process,
}

impl<'a> Containerd<'a> {
    /// Starts a containerd that holds nothing.
    pub fn start(pull: &Pull<'a>) -> Result<Self> {
        let stage = pull.stage;
        let dir = stage.dir(pull.dir())?;
        fs::write(dir.join("config.toml"), CONFIGURATION)?;
        let mut command = stage.command(Side::Client, "containerd");
        command.arg("--config").arg(dir.join("config.toml"));
        command.arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
        command.arg("--address").arg(dir.join("containerd.sock"));
        let mut containerd =
            Self { stage, _process: Process::start(&stage.logs(), &pull.name("containerd"), command)?, dir };
        wait::until("containerd ready", START_TIMEOUT, || {
            containerd._process.check_running()?;
            let probe = containerd.ctr().arg("version").output().context("run ctr")?;
            Ok(probe.status.success().then_some(()))
        })?;
        Ok(containerd)
    }

    /// `ctr content fetch`: all blobs of an image, each committed under its digest.
    pub fn fetch(&self, pull: &Pull<'_>) -> Result<Finished> {
        let mut command = pull.command("ctr")?;
        command.arg("--address").arg(self.socket()).args(["content", "fetch"]);
        match pull.front_door {
            FrontDoor::Proxy | FrontDoor::Sni => {
                command.arg("--tlscacert").arg(&pull.peer.ca);
            }
            FrontDoor::Mirror => {
                command.arg("--hosts-dir").arg(self.write_hosts(&pull.peer.door)?);
            }
            FrontDoor::Prefix => {
                command.arg("--plain-http");
            }
        }
        if let Some(credentials) = pull.credentials {
            command.args(["--user", credentials]);
        }
        command.arg(pull.reference());
        process::run(&self.stage.logs(), &pull.name("ctr-fetch"), command, PULL_TIMEOUT)
    }

    /// All that is committed.
    pub fn held(&self, pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
        let mut command = self.ctr();
        command.args(["content", "ls", "--quiet"]);
        let held =
            process::run(&self.stage.logs(), &pull.name("ctr-ls"), command, PULL_TIMEOUT)?.success()?;
        digests(held.split_whitespace())
    }

    fn ctr(&self) -> Command {
        let mut command = self.stage.command(Side::Client, "ctr");
        command.arg("--address").arg(self.socket());
        command
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// The directory of `hosts.toml` files that puts `mirror` before the registry, as `flotilla client setup` does.
    fn write_hosts(&self, mirror: &str) -> Result<PathBuf> {
        let hosts = self.dir.join("certs.d");
        fs::create_dir_all(hosts.join(REGISTRY_HOST))?;
        let text = format!(
            "server = \"https://{REGISTRY_HOST}\"\n[host.\"{mirror}/v2/{REGISTRY_HOST}\"]\n\
             capabilities = [\"pull\", \"resolve\"]\noverride_path = true\n"
        );
        fs::write(hosts.join(REGISTRY_HOST).join("hosts.toml"), text)?;
        Ok(hosts)
    }
}

/// CRI wants networks and sandboxes; `ctr` wants neither.
const CONFIGURATION: &str = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
