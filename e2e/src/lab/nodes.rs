//! The lab's daemons: one on each node, joined to a manager as an operator would.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use flotilla_e2e_hostile::Manner;
use flotilla_proto::{Digest, rendezvous_order};
use rustix::process::Signal;

use super::liar;
use super::network::{Network, Node, enter};
use crate::http;
use crate::origin::Origin;
use crate::process::{self, Process};
use crate::region::Metrics;
use crate::stage::{REGISTRY_HOST, Stage};
use crate::wait;

/// All daemons of the lab.
#[derive(Debug)]
pub(crate) struct Fleet<'a> {
    stage: &'a Stage,
    network: &'a Network,
    _manager: Process,
    scheduler: Option<Process>,
    seeds: Vec<Option<Process>>,
    peers: Vec<Option<Process>>,
    /// What a peer joins with.
    peer_token: String,
    liar: Option<Process>,
}

impl<'a> Fleet<'a> {
    /// Starts everyone and waits until each is ready.
    pub(crate) fn start(
        stage: &'a Stage,
        network: &'a Network,
        origin: &Origin<'_>,
        transport_keys: &str,
    ) -> Result<Self> {
        let manager = start_manager(stage, network.control())?;
        let admin = Admin { stage, node: network.control() };
        admin.tell("region", &["region", "add", REGION])?;
        let (url, ca) = (format!("https://{REGISTRY_HOST}"), origin.ca().display().to_string());
        admin.tell("registry", &["registry", "set", REGISTRY_HOST, "--url", &url, "--ca", &ca])?;
        let tokens = |role| {
            let uses = ["--uses", "unlimited", "--output", "json"];
            let words = [&["token", "create", "--region", REGION, "--role", role][..], &uses].concat();
            admin.tell("token", &words)
        };
        let scheduler = start_scheduler(stage, network.control(), &token(&tokens("scheduler")?)?)?;
        let (seed_token, peer_token) = (token(&tokens("seed")?)?, token(&tokens("peer")?)?);
        let start = |nodes: &[Node], token: &str| -> Result<Vec<Option<Process>>> {
            nodes.iter().map(|node| start_peer(stage, node, transport_keys, token).map(Some)).collect()
        };
        let seeds = start(network.seeds(), &seed_token)?;
        let peers = start(network.peers(), &peer_token)?;
        let fleet = Self {
            stage,
            network,
            _manager: manager,
            scheduler: Some(scheduler),
            seeds,
            peers,
            peer_token,
            liar: None,
        };
        for node in network.seeds().iter().chain(network.peers()) {
            on(node, || wait_ready(PEER_ADMIN))?;
        }
        Ok(fleet)
    }

    /// Starts a peer that lies about a blob, and waits until it has said so.
    pub(crate) fn start_liar(&mut self, manner: Manner, digest: Digest, size: u64) -> Result<()> {
        let node = self.network.liar();
        let dir = self.stage.dir(format!("lab/{}", node.name))?;
        let (token, ready) = (dir.join("token"), dir.join("ready"));
        fs::write(&token, &self.peer_token)?;
        let mut command = node.command(std::env::current_exe()?);
        command.args(["liar", "--name", &node.name, "--address", &node.address.to_string()]);
        command.args(["--digest", &digest.to_string(), "--size", &size.to_string()]);
        command.args(["--manner", liar::name_of(manner)]);
        command.arg("--dir").arg(&dir).arg("--join-token-file").arg(token).arg("--ready-file").arg(&ready);
        self.liar = Some(Process::start(&self.stage.logs(), &node.name, command)?);
        wait::until("the liar to have lied", Duration::from_secs(30), || Ok(ready.exists().then_some(())))
    }

    /// Fails unless the liar has gone on until now.
    pub(crate) fn assert_liar_lives(&mut self) -> Result<()> {
        self.liar.as_mut().map_or(Ok(()), Process::check_running)
    }

    /// Kills a peer as a crash would. It stays away.
    pub(crate) fn kill_peer(&mut self) -> Result<()> {
        crash(&mut self.peers[0])
    }

    /// The same, for the seed that reads.
    pub(crate) fn kill_reading_seed(&mut self) -> Result<()> {
        let reading = self.reading_seed()?;
        crash(&mut self.seeds[reading])
    }

    /// The same, for the seed that is to read this blob.
    pub(crate) fn kill_home_seed(&mut self, digest: Digest) -> Result<()> {
        let names = || self.network.seeds().iter().map(|node| node.name.as_str());
        let home = *rendezvous_order(digest.as_bytes(), names()).first().context("there is a seed")?;
        let place = names().position(|name| name == home).context("the home seed is one of them")?;
        crash(&mut self.seeds[place])
    }

    /// Kills the scheduler, and starts it again when it was away for so long.
    pub(crate) fn restart_scheduler(&mut self, away: Duration) -> Result<()> {
        crash(&mut self.scheduler)?;
        // Not a wait for something to happen: the plan says how long it is away.
        thread::sleep(away);
        let node = self.network.control();
        self.scheduler = Some(run(self.stage, node, "scheduler-again", "scheduler", "scheduler")?);
        Ok(())
    }

    /// Fails unless every living peer holds the blob complete, which it does only after its
    /// SHA-256 was found right.
    pub(crate) fn assert_verified(&self, digest: Digest) -> Result<()> {
        for node in self.living_peers() {
            let path = home(self.stage, &node.name).join("store/blobs/sha256").join(digest.hex());
            wait::until(&format!("{} to keep the blob", node.name), Duration::from_secs(10), || {
                Ok(path.exists().then_some(()))
            })?;
        }
        Ok(())
    }

    /// What the living peers count.
    pub(crate) fn peer_metrics(&self) -> Result<Vec<Metrics>> {
        self.living_peers().map(|node| on(node, || metrics(PEER_ADMIN))).collect()
    }

    fn scheduler_file(&self, name: &str) -> Result<String> {
        let process = self.scheduler.as_ref().context("the scheduler runs")?;
        let path = format!("/proc/{}/{name}", process.pid().as_raw_nonzero());
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }

    fn living_peers(&self) -> impl Iterator<Item = &Node> {
        let peers = self.network.peers().iter().zip(&self.peers);
        peers.filter(|(_, process)| process.is_some()).map(|(node, _)| node)
    }

    /// What the scheduler counts.
    pub(crate) fn scheduler_metrics(&self) -> Result<Metrics> {
        on(self.network.control(), || metrics(SCHEDULER_ADMIN))
    }

    /// The most memory that the scheduler has had resident.
    pub(crate) fn scheduler_peak_bytes(&self) -> Result<u64> {
        let status = self.scheduler_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("read VmHWM")?;
        Ok(kib * 1024)
    }

    /// Processor time of the scheduler, user and system.
    pub(crate) fn scheduler_cpu(&self) -> Result<Duration> {
        let stat = self.scheduler_file("stat")?;
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }

    fn reading_seed(&self) -> Result<usize> {
        for (place, node) in self.network.seeds().iter().enumerate() {
            if on(node, || metrics(PEER_ADMIN))?.source_bytes() > 0 {
                return Ok(place);
            }
        }
        Err(anyhow!("no seed has read anything yet: kill it later"))
    }
}

/// The cluster's administrator, at the manager's machine.
struct Admin<'a> {
    stage: &'a Stage,
    node: &'a Node,
}

impl Admin<'_> {
    fn tell(&self, name: &str, words: &[&str]) -> Result<String> {
        let identity = home(self.stage, "manager").join("admin");
        let mut command = self.node.command(self.stage.flotilla_path());
        command.args(words).args(["--manager", &manager_url(self.node)]).arg("--identity").arg(identity);
        process::run(&self.stage.logs(), &format!("admin-{name}"), command, Duration::from_secs(20))?
            .success()
    }
}

fn start_manager(stage: &Stage, node: &Node) -> Result<Process> {
    let advertise = format!("{}:{MANAGER_PORT}", node.address);
    let home = home(stage, "manager");
    let config = format!(
        "cluster = \"lab\"\ndata_dir = {home:?}\nlisten = \"0.0.0.0:{MANAGER_PORT}\"\nadvertise = \"{advertise}\"\n"
    );
    write_config(stage, "manager", &config)?;
    let manager = run(stage, node, "manager", "manager", "manager")?;
    on(node, || wait_ready(MANAGER_ADMIN))?;
    Ok(manager)
}

fn start_scheduler(stage: &Stage, node: &Node, token: &str) -> Result<Process> {
    let home = home(stage, "scheduler");
    let config = format!(
        "name = \"scheduler\"\ndata_dir = {home:?}\nadvertise = \"{}:4003\"\n[manager]\njoin_token = \"{token}\"\n",
        node.address
    );
    write_config(stage, "scheduler", &config)?;
    run(stage, node, "scheduler", "scheduler", "scheduler")
}

fn start_peer(stage: &Stage, node: &Node, transport_keys: &str, token: &str) -> Result<Process> {
    let (name, home) = (&node.name, home(stage, &node.name));
    let config = format!(
        "name = \"{name}\"\ndata_dir = {home:?}\n[manager]\njoin_token = \"{token}\"\n\
         [transport]\nadvertise = \"{}:4006\"\n{transport_keys}",
        node.address
    );
    write_config(stage, name, &config)?;
    run(stage, node, name, "peer", name)
}

fn write_config(stage: &Stage, name: &str, config: &str) -> Result<()> {
    let dir = stage.dir(format!("lab/{name}"))?;
    fs::write(dir.join("config.toml"), config).with_context(|| format!("write the configuration of {name}"))
}

fn run(stage: &Stage, node: &Node, log: &str, daemon: &str, name: &str) -> Result<Process> {
    let mut command = node.command(stage.flotilla_path());
    command.arg(daemon).arg("--config").arg(home(stage, name).join("config.toml"));
    Process::start(&stage.logs(), log, command)
}

fn crash(process: &mut Option<Process>) -> Result<()> {
    let process = process.take().context("it died before")?;
    process.signal(Signal::KILL)
}

fn token(json: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(json).context("read the token")?;
    let token = value.get("token").and_then(serde_json::Value::as_str).context("the answer has no token")?;
    ensure!(!token.is_empty(), "an empty token");
    Ok(token.to_owned())
}

/// Does `work` on a node, in a thread of its own.
fn on<T: Send>(node: &Node, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(node)?;
            work()
        });
        thread.join().map_err(|_| anyhow!("a thread on {} panicked", node.name))?
    })
}

fn wait_ready(admin: &str) -> Result<()> {
    wait::until(&format!("{admin} ready"), Duration::from_secs(60), || {
        let answer = http::get(&format!("http://{admin}/readyz"), Duration::from_secs(2));
        Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
    })
}

fn metrics(admin: &str) -> Result<Metrics> {
    http::get_text(&format!("http://{admin}/metrics")).map(Metrics::new)
}

fn home(stage: &Stage, name: &str) -> PathBuf {
    stage.path(format!("lab/{name}"))
}

fn manager_url(node: &Node) -> String {
    format!("https://{}:{MANAGER_PORT}", node.address)
}

const REGION: &str = "lab";
const MANAGER_PORT: u16 = 4000;
const MANAGER_ADMIN: &str = "127.0.0.1:4002";
const SCHEDULER_ADMIN: &str = "127.0.0.1:4004";
const PEER_ADMIN: &str = "127.0.0.1:4005";
