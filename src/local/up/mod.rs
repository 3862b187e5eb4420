//! `flotilla up`: a whole region on this machine, as child processes of this binary.
//!
//! The order is the one that makes each step checkable: manager, then what it must know, then
//! scheduler, then seed and peers. Whatever happens, nothing outlives this process.

mod addresses;
mod daemon;
mod fleet;
mod ports;
mod provision;
mod ready;
mod region;

use std::path::PathBuf;

use anyhow::Context as _;
use bytesize::ByteSize;

pub(crate) use addresses::PeerAddresses;
pub(crate) use region::{Home, Region, RegionPlan};

use super::interrupt::interrupted;
use super::registry::RegistryArgument;
use crate::output;

/// What `flotilla up` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// A registry to serve: the host in image names, where to reach it, and what else is to be
    /// said of it; may be given several times
    ///
    /// Behind the URL, between commas: user=U,password-file=F is the account that reads there;
    /// ca=FILE, address=IP:PORT, weight=N, proxy=URL, limit=50MB@08:00-18:00 are those of
    /// `flotilla registry set --endpoint`; release=verified, proxy-cache, count-pulls=false,
    /// offline=granted, offline-for=8h are the options of `flotilla registry set`.
    #[arg(long, required = true, value_name = "HOST=URL[,KEY=VALUE]...")]
    registry: Vec<RegistryArgument>,

    /// Peers beside the seed
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_PEERS))]
    peers: u16,

    /// Keep state and ports here between runs (default: a temporary directory)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print the addresses as one line of JSON once all daemons are ready
    #[arg(long)]
    json: bool,
}

/// Runs the region until Ctrl-C or SIGTERM.
pub(crate) async fn up(args: UpArgs) -> anyhow::Result<()> {
    let interrupted = interrupted().context("listen for signals")?;
    let upstreams = args.registry.iter().map(RegistryArgument::load).collect::<anyhow::Result<Vec<_>>>()?;
    let hosts: Vec<_> = upstreams.iter().map(|upstream| upstream.settings.host.clone()).collect();
    let home = Home::open(args.dir.as_deref())?;
    let mut region = Region::lay_out(RegionPlan {
        executable: std::env::current_exe().context("find this executable")?,
        root: home.path().to_owned(),
        peers: args.peers,
        upstreams,
        quota: QUOTA,
    })?;
    let run = async {
        let addresses = region.start().await?;
        if args.json {
            output::print(&addresses.json())?;
        } else {
            let text = addresses.for_people(&hosts);
            output::print(&format!("{text}\nCtrl-C ends it. State: {}", home.path().display()))?;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let result = tokio::select! {
        result = run => result,
        () = interrupted => Ok(()),
    };
    region.stop().await;
    result
}

/// Of one machine's processes and ports.
pub(crate) const MAX_PEERS: i64 = 64;

/// Of each peer's store. Only what is pulled takes room on the disk.
pub(crate) const QUOTA: ByteSize = ByteSize::gib(16);
