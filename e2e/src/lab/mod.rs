//! `flotilla-e2e lab`: a region of real daemons, each on a node of its own with links of a
//! stated rate, that pulls one blob at once. What the simulator says of the same case is
//! printed beside it: the lab is what makes the simulator's word worth something.
//!
//! All of it is one machine. The links are shaped, the processors are not: where the nodes
//! together ask for more than the machine computes, the lab measures the machine.

mod client;
mod liar;
mod network;
mod nodes;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use bytesize::ByteSize;
use flotilla_e2e_hostile::Manner;
use rustix::mount::{MountFlags, mount};

use self::client::Pulled;
pub use self::liar::{LiarOrders, run as run_liar};
use self::network::{Network, Rate};
use self::nodes::Fleet;
pub use self::report::LabReport;
use crate::image::{Format, ImageSpec};
use crate::origin::Origin;
use crate::runner::{self, House};
use crate::stage::Stage;

/// What to try.
#[derive(Debug, Clone, clap::Args)]
pub struct LabPlan {
    /// Peers that pull.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u8).range(1..=60))]
    nodes: u8,
    /// Seeds beside them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    seeds: u8,
    /// What each node's link carries each way, as tc writes it: 200mbit, 1gbit.
    #[arg(long, default_value = "200mbit")]
    rate: Rate,
    /// The largest packet that the network carries, in bytes; 9000 with jumbo frames.
    #[arg(long, default_value_t = ETHERNET_MTU, value_parser = clap::value_parser!(u16).range(1280..=9000))]
    mtu: u16,
    /// What pieces may take of each node's uplink, a second, by its own configuration.
    #[arg(long)]
    pub(crate) send_bandwidth: Option<ByteSize>,
    /// What they may take of its downlink.
    #[arg(long)]
    pub(crate) receive_bandwidth: Option<ByteSize>,
    /// What the registry sends at most; as fast as it can unless given.
    #[arg(long)]
    registry_rate: Option<Rate>,
    /// The layer's size.
    #[arg(long, default_value = "128 MiB")]
    size: ByteSize,
    /// Kill it in the middle.
    #[arg(long, value_enum)]
    kill: Option<Victim>,
    /// When, in seconds after the pull began.
    #[arg(long, default_value_t = 2.0)]
    kill_after: f64,
    /// For how many seconds a killed scheduler stays away.
    #[arg(long, default_value_t = 0.0)]
    away: f64,
    /// One more node is an attacker's, whose enrolled peer says to hold the layer with false hashes and sizes, slanders
    /// others, asks for 10 000 blobs a second, and answers in this manner: silent, mute, drips, garbage, busy, cuts or any.
    #[arg(long, value_parser = liar::manner)]
    pub(crate) liar: Option<Manner>,
    /// Keep the nodes' files on the disk behind this directory, not in memory: the figures then
    /// are those of one disk that all nodes share.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl LabPlan {
    /// Nothing unusual: so many nodes at a rate pull a layer of a size.
    pub(crate) fn plain(nodes: u8, rate: Rate, size: ByteSize) -> Self {
        Self {
            nodes,
            seeds: 1,
            rate,
            mtu: ETHERNET_MTU,
            send_bandwidth: None,
            receive_bandwidth: None,
            registry_rate: None,
            size,
            kill: None,
            kill_after: 0.0,
            away: 0.0,
            liar: None,
            dir: None,
        }
    }
}

impl LabPlan {
    /// What stands in `[transport]` of each peer.
    fn transport_keys(&self) -> String {
        let limit = |key: &str, bandwidth: Option<ByteSize>| {
            bandwidth.map(|bandwidth| format!("{key} = \"{} B\"\n", bandwidth.as_u64())).unwrap_or_default()
        };
        let send = limit("send_bandwidth", self.send_bandwidth);
        let receive = limit("receive_bandwidth", self.receive_bandwidth);
        format!("mtu = {}\n{send}{receive}", self.mtu)
    }
}

/// Whom to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Victim {
    /// The seed that reads; it stays away.
    Seed,
    /// The layer's home seed, just before the pull and whatever `--kill-after` says; it stays
    /// away.
    HomeSeed,
    /// The scheduler; it is started again at once.
    Scheduler,
    /// One of the peers; it stays away.
    Peer,
}

/// Runs the lab in namespaces of its own and prints its figures as one JSON object.
pub fn run(words: &[String], plan: &LabPlan) -> ExitCode {
    match run_in_namespaces(words, plan) {
        Ok(succeeded) => {
            if succeeded {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("flotilla-e2e: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run_in_namespaces(words: &[String], plan: &LabPlan) -> Result<bool> {
    let house = House::prepare()?;
    let dir = plan.dir.as_deref().unwrap_or(house.dir());
    let store = dir.join("lab");
    runner::remove_dir(&store)?;
    fs::create_dir_all(&store).with_context(|| format!("create {}", store.display()))?;
    let mut command = runner::in_namespaces()?;
    command.arg("on-lab").args([store.as_path(), house.flotilla()]).args(words);
    let mut child = command.spawn().context("run unshare")?;
    let _lifeline = child.stdin.take();
    let status = child.wait()?;
    if status.success() || plan.dir.is_none() {
        fs::remove_dir_all(&store)?;
    } else {
        eprintln!("the nodes' files are in {}", store.display());
    }
    Ok(status.success())
}

/// Runs the lab in the namespaces of this process and prints its figures.
pub fn run_on_lab(plan: &LabPlan, store: &Path, flotilla: &Path) -> ExitCode {
    runner::end_with_standard_input(store);
    let played = Stage::set(store, flotilla).context("set the stage").and_then(|stage| play(&stage, plan));
    let report = played.and_then(|report| Ok(serde_json::to_string(&report)?));
    match report {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            runner::print_log_tails(store);
            eprintln!("flotilla-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The lab itself, on a stage that is set.
///
/// # Errors
/// If a part does not start, or a pull fails.
pub(crate) fn play(stage: &Stage, plan: &LabPlan) -> Result<LabReport> {
    let nodes = stage.dir("lab")?;
    if plan.dir.is_none() {
        mount("tmpfs", &nodes, "tmpfs", MountFlags::empty(), None).context("mount a tmpfs")?;
    }
    let mut origin = Origin::start(stage)?;
    let size = usize::try_from(plan.size.as_u64()).context("a layer is built in memory")?;
    let image = ImageSpec { format: Format::Oci, layer_lens: vec![size] }.build("lab/app", 1);
    origin.publish(&image)?;

    let network = Network::lay(plan.seeds, plan.nodes, plan.rate, plan.mtu)?;
    let mut fleet = Fleet::start(stage, &network, &origin, &plan.transport_keys())?;
    if let Some(rate) = plan.registry_rate {
        network.shape_origin(rate)?;
    }
    origin.all_requests().context("let the push end")?;
    if plan.kill == Some(Victim::HomeSeed) {
        fleet.kill_home_seed(image.layers[0].digest())?;
    }
    if let Some(manner) = plan.liar {
        fleet.start_liar(manner, image.layers[0].digest(), image.layers[0].size())?;
    }
    let pulled = pull_everywhere(plan, &network, &mut fleet, &image)?;
    fleet.assert_liar_lives()?;
    let source_bytes = origin.all_requests()?.blob_reads().values().map(|reads| reads.bytes).sum();
    fleet.assert_verified(image.layers[0].digest())?;
    LabReport::of(plan, &image, &pulled, source_bytes, &fleet, &network)
}

/// All clients ask for the manifest first; when each has its answer, all ask for the layer.
fn pull_everywhere(
    plan: &LabPlan,
    network: &Network,
    fleet: &mut Fleet<'_>,
    image: &crate::image::Image,
) -> Result<Vec<Pulled>> {
    let layer = &image.layers[0];
    let barrier = Barrier::new(network.peers().len() + 1);
    let spared = network.peers().len() - usize::from(plan.kill == Some(Victim::Peer));
    thread::scope(|scope| {
        let pulls: Vec<_> = network
            .peers()
            .iter()
            .map(|node| {
                let barrier = &barrier;
                scope.spawn(move || {
                    network::enter(node)?;
                    let granted = client::read_manifest(&image.repository);
                    barrier.wait();
                    granted.and_then(|()| client::pull(&image.repository, layer.digest(), layer.size()))
                })
            })
            .collect();
        barrier.wait();
        let began = Instant::now();
        if plan.kill.is_some() {
            // Not a wait for something to happen: the plan names the moment.
            thread::sleep(Duration::from_secs_f64(plan.kill_after).saturating_sub(began.elapsed()));
        }
        match plan.kill {
            Some(Victim::Seed) => fleet.kill_reading_seed()?,
            Some(Victim::Peer) => fleet.kill_peer()?,
            Some(Victim::Scheduler) => fleet.restart_scheduler(Duration::from_secs_f64(plan.away))?,
            Some(Victim::HomeSeed) | None => {}
        }
        let results: Vec<Result<Pulled>> =
            pulls.into_iter().map(|pull| pull.join().map_err(|_| anyhow!("a client panicked"))?).collect();
        let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        if done.len() < spared {
            let reason = failed.into_iter().find_map(Result::err).context("a failure has a reason")?;
            bail!("{} of {spared} pulls failed: {reason:#}", spared - done.len());
        }
        done.into_iter().collect()
    })
}

/// Without jumbo frames.
const ETHERNET_MTU: u16 = 1500;
