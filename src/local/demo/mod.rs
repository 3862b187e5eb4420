//! `flotilla demo`: a region on this machine, an image, and clients that pull it all at once.
//!
//! What it claims it has counted or hashed itself: the registry's bytes in front of the
//! registry, the blobs' SHA-256 in the clients. Only where a peer's pieces came from is the
//! peer's own word.

mod generate;
mod hop;
mod origin;
mod progress;
mod pull;
mod registry;
mod report;

use std::path::Path;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytesize::ByteSize;
use flotilla_proto::Role;

use super::interrupt::interrupted;
use super::registry::RegistryArgument;
use super::up::{Home, MAX_PEERS, PeerAddresses, QUOTA, Region, RegionPlan};
use crate::bytes_by_source::BytesBySource;
use crate::http::HttpClient;
use crate::oci_client::ImageReference;
use crate::output;
use generate::MAX_LAYERS;
use origin::Origin;
use progress::Display;
use pull::{FleetPull, NodeDoor};
use report::{Measured, Report};

/// What `flotilla demo` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Peers beside the seed
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_PEERS))]
    peers: u16,

    /// Clients of each peer; all start together
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_CLIENTS))]
    clients: u16,

    /// Bytes of the generated image's layers together
    #[arg(long, default_value = "256 MiB", value_name = "SIZE", conflicts_with = "image")]
    size: ByteSize,

    /// Layers of the generated image
    #[arg(long, default_value_t = 4, value_name = "N", conflicts_with = "image", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_LAYERS)))]
    layers: u16,

    /// Pull this image from its registry, not a generated one: HOST/REPOSITORY[:TAG|@DIGEST]
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageReference>,

    /// Where the image's registry is reached (default: https://HOST), its CA, the account
    /// that its clients use: HOST=URL[,ca=FILE][,user=U,password-file=F], and the keys of
    /// `flotilla up --registry`
    #[arg(long, value_name = "HOST=URL[,KEY=VALUE]...", requires = "image")]
    registry: Vec<RegistryArgument>,

    /// Print the outcome as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the demo; fails unless every client got every blob.
pub(crate) async fn demo(args: DemoArgs) -> anyhow::Result<()> {
    let interrupted = interrupted().context("listen for signals")?;
    tokio::pin!(interrupted);
    let mut display = Display::choose(args.json);
    let (image_home, region_home) = (Home::open(None)?, Home::open(None)?);
    let origin = tokio::select! {
        origin = open_origin(&args, image_home.path(), &display) => origin?,
        () = &mut interrupted => bail!("interrupted"),
    };
    let measured = async {
        let mut region = Region::lay_out(region_plan(&args, &origin, region_home.path())?)?;
        let measured = tokio::select! {
            measured = measure(&args, &origin, &mut region, &mut display) => measured,
            () = interrupted => Err(anyhow!("interrupted")),
        };
        region.stop().await;
        measured
    };
    let measured = measured.await;
    origin.stop().await;
    let report = measured?;
    output::print(&if args.json { report.json() } else { report.for_people() })?;
    ensure!(report.verified, "not every client got the image:{}", lines(&report.failures));
    Ok(())
}

async fn open_origin(args: &DemoArgs, home: &Path, display: &Display) -> anyhow::Result<Origin> {
    let origin = match &args.image {
        Some(image) => {
            let named = args.registry.iter().find(|registry| registry.host == image.host).cloned();
            let registry = match named {
                Some(registry) => registry,
                None => RegistryArgument::public(image.host.clone())?,
            };
            Origin::existing(image.clone(), registry.load()?).await?
        }
        None => Origin::generated(args.size, args.layers, home).await?,
    };
    display.say(&format!("{} is in {}", origin.image, origin.kind()));
    Ok(origin)
}

/// The image's registry behind the hop, and whatever other registries were named.
fn region_plan(args: &DemoArgs, origin: &Origin, root: &Path) -> anyhow::Result<RegionPlan> {
    let others = args.registry.iter().filter(|registry| registry.host != origin.image.host);
    let mut upstreams = others.map(RegistryArgument::load).collect::<anyhow::Result<Vec<_>>>()?;
    upstreams.push(origin.upstream());
    Ok(RegionPlan {
        executable: std::env::current_exe().context("find this executable")?,
        root: root.to_owned(),
        peers: args.peers,
        upstreams,
        // Twice the image, so that nothing is evicted while it is pulled.
        quota: QUOTA.max(ByteSize(args.size.as_u64().saturating_mul(2))),
    })
}

/// Starts the region, pulls, and compares the counters before and after.
async fn measure(
    args: &DemoArgs,
    origin: &Origin,
    region: &mut Region,
    display: &mut Display,
) -> anyhow::Result<Report> {
    let addresses = region.start().await?;
    let peers: Vec<_> = addresses.peers.into_iter().filter(|peer| peer.role == Role::Peer).collect();
    display.say(&format!("{} peers are ready, each has {} clients", peers.len(), args.clients));
    let http = HttpClient::loopback();
    let before = counters(&http, &peers).await?;
    let pulled = fleet_pull(args, origin, &peers).run(display).await;
    let after = counters(&http, &peers).await?;
    let counted = before.into_iter().zip(after).map(|(before, after)| after.since(before));
    Ok(Report::new(Measured {
        origin,
        pulled,
        bytes_by_node: counted.collect(),
        clients_per_peer: args.clients,
    }))
}

fn fleet_pull(args: &DemoArgs, origin: &Origin, peers: &[PeerAddresses]) -> FleetPull {
    let door = |peer: &PeerAddresses| NodeDoor { name: peer.name.clone(), door: peer.door.clone() };
    FleetPull {
        http: origin.http.clone(),
        nodes: peers.iter().map(door).collect(),
        clients_per_node: args.clients,
        image: origin.image.clone(),
        credentials: origin.credentials.clone(),
    }
}

/// One line each, the first [`FAILURES_SHOWN`] of them.
fn lines(failures: &[String]) -> String {
    let mut text: String =
        failures.iter().take(FAILURES_SHOWN).map(|failure| format!("\n  {failure}")).collect();
    if failures.len() > FAILURES_SHOWN {
        text += &format!("\n  and {} more", failures.len() - FAILURES_SHOWN);
    }
    text
}

async fn counters(http: &HttpClient, peers: &[PeerAddresses]) -> anyhow::Result<Vec<BytesBySource>> {
    let mut counters = Vec::new();
    for peer in peers {
        let bytes = BytesBySource::of(http, &peer.admin).await;
        counters.push(bytes.with_context(|| format!("read the metrics of {}", peer.name))?);
    }
    Ok(counters)
}

/// The others failed in the same ways.
const FAILURES_SHOWN: usize = 20;

/// Of each peer: more measure this machine's scheduler, not the region.
const MAX_CLIENTS: i64 = 64;

#[cfg(test)]
mod tests;
