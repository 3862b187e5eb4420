//! The container clients, each pointed at a peer by its own setting and nothing else.

mod cells;
mod containerd;
mod containers_image;
mod curl;
mod dockerd;
mod together;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flotilla_proto::Digest;
use serde_json::json;

pub use cells::{CELLS, Cell, NO_CELLS, NoCell};
pub use containerd::Containerd;
pub use curl::{Curl, Heard};
pub use dockerd::Dockerd;
pub use together::Together;

use crate::process::Finished;
use crate::region::Peer;
use crate::stage::{REGISTRY_HOST, Side, Stage};

/// A client, as its users call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// `docker pull`.
    Docker,
    /// `ctr content fetch`.
    Ctr,
    /// `skopeo copy`.
    Skopeo,
    /// `buildah pull`.
    Buildah,
    /// `podman pull`.
    Podman,
}

/// How the client is led to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontDoor {
    /// `HTTPS_PROXY` and a certificate authority.
    Proxy,
    /// The client's own setting for a mirror of the registry.
    Mirror,
    /// The peer's address in front of the image's name.
    Prefix,
    /// A hosts file that takes the peer for the registry, and a certificate authority.
    Sni,
}

/// One pull of one image through one peer, by a client that has nothing of it.
#[derive(Debug, Clone, Copy)]
pub struct Pull<'a> {
    /// Where.
    pub stage: &'a Stage,
    /// Who pulls.
    pub client: Client,
    /// Which way in.
    pub front_door: FrontDoor,
    /// Through whom.
    pub peer: &'a Peer,
    /// What, without the registry's host.
    pub image: &'a str,
    /// `name:secret` of an account, if one is needed.
    pub credentials: Option<&'a str>,
    /// Tells this pull's files from those of another.
    pub label: &'a str,
}

/// A pull that can begin.
#[derive(Debug)]
pub struct Ready<'a> {
    pull: Pull<'a>,
    daemon: Daemon<'a>,
}

#[derive(Debug)]
enum Daemon<'a> {
    Dockerd(Dockerd<'a>),
    Containerd(Containerd<'a>),
    None,
}

impl<'a> Pull<'a> {
    /// Starts the daemon that the client needs, if any, so that several pulls can then
    /// begin at one moment.
    pub fn start(self) -> Result<Ready<'a>> {
        let daemon = match self.client {
            Client::Docker => Daemon::Dockerd(Dockerd::start(&self)?),
            Client::Ctr => Daemon::Containerd(Containerd::start(&self)?),
            Client::Skopeo | Client::Buildah | Client::Podman => Daemon::None,
        };
        Ok(Ready { pull: self, daemon })
    }

    /// The image's name as the user writes it.
    fn reference(&self) -> String {
        match self.front_door {
            FrontDoor::Proxy | FrontDoor::Mirror | FrontDoor::Sni => {
                format!("{REGISTRY_HOST}/{}", self.image)
            }
            FrontDoor::Prefix => format!("{}/{REGISTRY_HOST}/{}", self.peer.door_authority(), self.image),
        }
    }

    /// Writes the credentials, if there are any, to `config.json` in `dir`, as `docker login` and
    /// its like would. A client keeps them apart by the host that it asks: a mirror needs its own.
    fn write_login(&self, dir: &Path) -> Result<Option<PathBuf>> {
        let Some(credentials) = self.credentials else { return Ok(None) };
        let auth = json!({ "auth": BASE64_STANDARD.encode(credentials) });
        let auths = json!({ "auths": { REGISTRY_HOST: auth, self.peer.door_authority(): auth } });
        let path = dir.join("config.json");
        fs::write(&path, auths.to_string()).context("write login")?;
        Ok(Some(path))
    }

    /// A client's program, in the surroundings that its door needs.
    fn command(&self, program: &str) -> Result<Command> {
        let mut command = match self.front_door {
            FrontDoor::Sni => {
                let hosts = self.stage.dir(self.dir())?.join("hosts");
                fs::write(&hosts, format!("127.0.0.1 localhost\n{} {REGISTRY_HOST}\n", self.peer.sni()?))?;
                let mut command = self.stage.command(Side::Client, "unshare");
                command.args(["--mount", "sh", "-c", WITH_HOSTS]).arg(hosts).arg(program);
                command
            }
            FrontDoor::Proxy | FrontDoor::Mirror | FrontDoor::Prefix => {
                self.stage.command(Side::Client, program)
            }
        };
        if self.front_door == FrontDoor::Proxy {
            command.env("HTTPS_PROXY", &self.peer.door);
        }
        Ok(command)
    }

    /// Whether the peer opens TLS in the registry's name, so that the client must trust it.
    fn needs_ca(&self) -> bool {
        match self.front_door {
            FrontDoor::Proxy | FrontDoor::Sni => true,
            FrontDoor::Mirror | FrontDoor::Prefix => false,
        }
    }

    /// This pull's own directory.
    fn dir(&self) -> String {
        format!("clients/{}", self.name("client"))
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}-{}", self.peer.name, self.label)
    }

    fn cell(&self) -> String {
        format!("{:?} through the {:?} door of {}", self.client, self.front_door, self.peer.name)
    }
}

impl Ready<'_> {
    /// Pulls, and lists the digests of what the client then holds: manifest, config, layers.
    pub fn run(&self) -> Result<BTreeSet<Digest>> {
        self.run_with(&self.pull)
    }

    /// The same client pulls once more, as `pull` says: something else, or as another account.
    pub fn run_with(&self, pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
        let held = || {
            self.ask(pull)?.success()?;
            match &self.daemon {
                Daemon::Dockerd(dockerd) => dockerd.held(pull),
                Daemon::Containerd(containerd) => containerd.held(pull),
                Daemon::None => containers_image::held(pull),
            }
        };
        held().with_context(|| pull.cell())
    }

    /// Has the same client pull once more, which must fail, and returns what it shows its user.
    pub fn refused(&self, pull: &Pull<'_>) -> Result<String> {
        self.ask(pull).and_then(Finished::refusal).with_context(|| pull.cell())
    }

    fn ask(&self, pull: &Pull<'_>) -> Result<Finished> {
        match &self.daemon {
            Daemon::Dockerd(dockerd) => dockerd.pull(pull),
            Daemon::Containerd(containerd) => containerd.fetch(pull),
            Daemon::None => containers_image::pull(pull),
        }
    }
}

/// Reads digests from words of a client's output.
fn digests<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<BTreeSet<Digest>> {
    let parse = |word: &str| word.parse().with_context(|| format!("not a digest: {word}"));
    words.into_iter().map(parse).collect()
}

/// Runs `$1…` where `$0` is the hosts file: a mount that only it and what it starts can see.
const WITH_HOSTS: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
/// A client that takes longer has been left hanging.
const PULL_TIMEOUT: Duration = Duration::from_secs(120);
const START_TIMEOUT: Duration = Duration::from_secs(30);
