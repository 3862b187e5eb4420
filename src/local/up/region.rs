//! A whole region as child processes: laid out, started, ready, stopped.

use std::path::{Path, PathBuf};
use std::slice;

use anyhow::Context as _;
use bytesize::ByteSize;
use flotilla_proto::Role;

use super::addresses::{Addresses, PeerAddresses};
use super::daemon::{CLUSTER, Daemon, Settings};
use super::fleet::Fleet;
use super::ports::Ports;
use super::provision::{Provision, provision};
use super::ready::ready;
use crate::http::HttpClient;
use crate::local::registry::Upstream;

/// What a region is made of.
#[derive(Debug, Clone)]
pub(crate) struct RegionPlan {
    /// The `flotilla` to run.
    pub(crate) executable: PathBuf,
    /// The directory for everything.
    pub(crate) root: PathBuf,
    /// Peers beside the seed.
    pub(crate) peers: u16,
    /// The registries it serves.
    pub(crate) upstreams: Vec<Upstream>,
    /// Bytes that each peer's store may hold.
    pub(crate) quota: ByteSize,
}

/// The region's daemons, and those of their processes that run.
pub(crate) struct Region {
    upstreams: Vec<Upstream>,
    manager: Daemon,
    scheduler: Daemon,
    /// The seed first.
    peers: Vec<Daemon>,
    launcher: Launcher,
}

impl Region {
    /// Makes directories, finds ports and writes configurations; starts nothing.
    pub(crate) fn lay_out(plan: RegionPlan) -> anyhow::Result<Self> {
        let RegionPlan { executable, root, peers, upstreams, quota } = plan;
        let ports_file = root.join("ports.json");
        let mut ports = Ports::load(&ports_file).with_context(|| format!("read {}", ports_file.display()))?;
        let mut lay_out = |name: &str, role| {
            Daemon::lay_out(&root, name, role, &mut ports).with_context(|| format!("lay out {name}"))
        };
        let manager = lay_out("manager", Role::Manager)?;
        let scheduler = lay_out("scheduler", Role::Scheduler)?;
        let mut all_peers = vec![lay_out("seed-0", Role::Seed)?];
        for index in 0..peers {
            all_peers.push(lay_out(&format!("peer-{index}"), Role::Peer)?);
        }
        ports.save(&ports_file).with_context(|| format!("write {}", ports_file.display()))?;

        let robots =
            upstreams.iter().filter_map(|u| Some((u.settings.host.clone(), u.account.clone()?))).collect();
        let settings = Settings { quota, robots };
        for daemon in [&manager, &scheduler].into_iter().chain(&all_peers) {
            daemon
                .write_config(&settings)
                .with_context(|| format!("write the configuration of {}", daemon.name))?;
        }
        let launcher = Launcher { executable, http: HttpClient::loopback(), fleet: Fleet::new() };
        Ok(Self { upstreams, manager, scheduler, peers: all_peers, launcher })
    }

    /// Starts all daemons; done when each is ready. After an error, or if this is dropped,
    /// some may run: [`Region::stop`] ends them.
    pub(crate) async fn start(&mut self) -> anyhow::Result<Addresses> {
        self.launcher.launch(slice::from_ref(&self.manager)).await?;
        self.tell_the_manager().await?;
        self.launcher.launch(slice::from_ref(&self.scheduler)).await?;
        self.launcher.launch(&self.peers).await?;
        self.launcher.fleet.settle();
        Ok(self.addresses())
    }

    /// Ends every daemon and waits for it, at most 8 s.
    pub(crate) async fn stop(self) {
        self.launcher.fleet.stop().await;
    }

    async fn tell_the_manager(&mut self) -> anyhow::Result<()> {
        let daemons: Vec<_> = self.peers.iter().chain([&self.scheduler]).cloned().collect();
        let request = Provision {
            admin_identity: &self.manager.home.join("admin"),
            region: CLUSTER,
            upstreams: &self.upstreams,
            daemons: &daemons,
        };
        self.launcher.fleet.unless_one_dies(provision(&request)).await?
    }

    fn addresses(&self) -> Addresses {
        let peer = |daemon: &Daemon| PeerAddresses {
            name: daemon.name.clone(),
            role: daemon.role,
            door: format!("http://{}", daemon.listen),
            admin: format!("http://{}", daemon.admin),
            ca: daemon.ca_bundle(),
        };
        Addresses {
            manager: format!("https://{}", self.manager.listen),
            scheduler: format!("https://{}", self.scheduler.listen),
            peers: self.peers.iter().map(peer).collect(),
        }
    }
}

/// Starts daemons and sees them become ready.
struct Launcher {
    executable: PathBuf,
    http: HttpClient,
    fleet: Fleet,
}

impl Launcher {
    /// Starts these together and waits until each is ready.
    async fn launch(&mut self, daemons: &[Daemon]) -> anyhow::Result<()> {
        for daemon in daemons {
            self.fleet.start(daemon.program(&self.executable))?;
        }
        let http = &self.http;
        let all_ready = async {
            for daemon in daemons {
                ready(http, &daemon.name, daemon.admin).await?;
            }
            Ok(())
        };
        self.fleet.unless_one_dies(all_ready).await?
    }
}

/// The directory of a region: kept where it is given, else removed at the end.
pub(crate) enum Home {
    /// Kept.
    Kept(PathBuf),
    /// Removed when dropped.
    Temporary(tempfile::TempDir),
}

impl Home {
    /// The directory `kept`, made where it is missing, or a fresh temporary one.
    pub(crate) fn open(kept: Option<&Path>) -> anyhow::Result<Self> {
        let Some(directory) = kept else {
            let temporary = tempfile::Builder::new().prefix("flotilla-").tempdir();
            return Ok(Self::Temporary(temporary.context("make a temporary directory")?));
        };
        let name = || directory.display().to_string();
        std::fs::create_dir_all(directory).with_context(|| format!("make directory {}", name()))?;
        Ok(Self::Kept(directory.canonicalize().with_context(|| format!("find directory {}", name()))?))
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Kept(directory) => directory,
            Self::Temporary(directory) => directory.path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_keeps_its_addresses_between_runs() {
        let home = Home::open(None).unwrap();
        let plan = RegionPlan {
            executable: "/no/such/flotilla".into(),
            root: home.path().to_owned(),
            peers: 2,
            upstreams: Vec::new(),
            quota: ByteSize::gib(1),
        };
        let first = Region::lay_out(plan.clone()).unwrap().addresses();
        let second = Region::lay_out(plan).unwrap().addresses();
        assert_eq!(first, second);
        let names: Vec<_> = first.peers.iter().map(|peer| &*peer.name).collect();
        assert_eq!(names, ["seed-0", "peer-0", "peer-1"]);
    }

    #[tokio::test]
    async fn a_daemon_that_dies_while_the_region_starts_ends_the_start_and_is_named() {
        let home = Home::open(None).unwrap();
        let mut region = Region::lay_out(RegionPlan {
            executable: "/bin/false".into(),
            root: home.path().to_owned(),
            peers: 1,
            upstreams: Vec::new(),
            quota: ByteSize::gib(1),
        })
        .unwrap();
        let error = region.start().await.unwrap_err().to_string();
        assert!(error.starts_with("manager ended (exit status: 1)"), "{error}");
        region.stop().await;
    }
}
