//! dockerd with a data root, exec root and socket of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flotilla_proto::Digest;
use serde::Deserialize;

use super::{FrontDoor, PULL_TIMEOUT, Pull, START_TIMEOUT, digests};
use crate::process::{self, Finished, Process};
use crate::stage::{REGISTRY_HOST, Side, Stage};
use crate::wait;

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd<'a> {
    stage: &'a Stage,
    name: String,
    socket: PathBuf,
    _process: Process,
}

/// What `docker image inspect` says of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    repo_digests: Vec<String>,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    layers: Vec<String>,
}

impl<'a> Dockerd<'a> {
    /// Starts a dockerd that reaches registries as `pull` says.
    pub fn start(pull: &Pull<'a>) -> Result<Self> {
        ensure!(pull.front_door != FrontDoor::Mirror, "dockerd takes a mirror for its hub alone");
        if pull.needs_ca() {
            let certificates = pull.stage.dir(format!("etc-docker/certs.d/{REGISTRY_HOST}"))?;
            fs::copy(&pull.peer.ca, certificates.join(format!("{}.crt", pull.peer.name)))
                .context("copy the peer's CA")?;
        }
        Self::launch(pull.stage, &pull.name("dockerd"), &pull.dir(), pull.command("dockerd")?)
    }

    /// Starts a dockerd that builds and runs, and needs no registry.
    pub fn start_offline(stage: &'a Stage) -> Result<Self> {
        Self::launch(stage, "dockerd", "dockerd", stage.command(Side::Client, "dockerd"))
    }

    fn launch(stage: &'a Stage, name: &str, dir: &str, mut command: Command) -> Result<Self> {
        let dir = stage.dir(dir)?;
        let socket = dir.join("docker.sock");
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        command
            .arg(flag("data-root", &dir.join("data")))
            .arg(flag("exec-root", &dir.join("exec")))
            .arg(flag("pidfile", &dir.join("pid")))
            .arg(format!("--host=unix://{}", socket.display()))
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false", "--storage-driver=vfs"]);
        let mut process = Process::start(&stage.logs(), name, command)?;
        wait::until("dockerd ready", START_TIMEOUT, || {
            process.check_running()?;
            let mut probe = docker(stage, &socket);
            Ok(probe.arg("version").output().context("run docker")?.status.success().then_some(()))
        })?;
        Ok(Self { stage, name: name.to_owned(), socket, _process: process })
    }

    /// `docker pull`.
    pub fn pull(&self, pull: &Pull<'_>) -> Result<Finished> {
        let mut command = self.docker();
        if let Some(login) = pull.write_login(&self.stage.dir(pull.dir())?)? {
            command.env("DOCKER_CONFIG", login.parent().context("a file is in a directory")?);
        }
        command.args(["pull", &pull.reference()]);
        process::run(&self.stage.logs(), &pull.name("docker-pull"), command, PULL_TIMEOUT)
    }

    /// The parts of the image.
    pub fn held(&self, pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
        let json = self.run("inspect", &["image", "inspect", &pull.reference()], PULL_TIMEOUT)?;
        let [image]: [Inspected; 1] = serde_json::from_str(&json).context("read inspect")?;
        let manifests = image.repo_digests.iter().filter_map(|name| name.split('@').nth(1));
        let parts = image.root_fs.layers.iter().map(String::as_str);
        digests(manifests.chain([image.id.as_str()]).chain(parts))
    }

    /// Runs `docker` with `arguments`, and returns what it prints.
    pub fn run(&self, verb: &str, arguments: &[&str], deadline: Duration) -> Result<String> {
        let mut command = self.docker();
        command.args(arguments);
        process::run(&self.stage.logs(), &format!("{}-{verb}", self.name), command, deadline)?.success()
    }

    /// `docker`, pointed at this daemon.
    pub fn docker(&self) -> Command {
        docker(self.stage, &self.socket)
    }
}

fn docker(stage: &Stage, socket: &Path) -> Command {
    let mut command = stage.command(Side::Client, "docker");
    // The classic builder: Debian has no other.
    command.env("DOCKER_BUILDKIT", "0").arg(format!("--host=unix://{}", socket.display()));
    command
}
