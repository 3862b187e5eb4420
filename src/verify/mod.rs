//! `flotilla verify`: one pull through the door of this node, and where its bytes came from.
//!
//! Every blob is hashed here. Where the peer had the bytes from is the peer's own word: its
//! counters, read before and after. They count a piece once, when it comes or is first
//! found in the store, and for all clients of the node together.

mod account;
mod peer;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use flotilla_manager::cli::OutputFormat;
use hyper::Uri;
use tokio::time::Instant;

use self::account::AccountArgs;
use self::peer::ready_peer;
use self::report::{Measured, Report};
use crate::bytes_by_source::BytesBySource;
use crate::client::{PeerUrl, ca_file, usual_data_dir};
use crate::http::HttpClient;
use crate::local_peer::LocalPeer;
use crate::oci_client::{ClientPlan, Door, ImageReference, NodeProgress, PullError, PulledImage, pull};
use crate::output;

/// What `flotilla verify` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// HOST/REPOSITORY[:TAG|@DIGEST]
    image: ImageReference,

    /// The front door to go through
    #[arg(long, value_enum, default_value_t = DoorArgument::Mirror, value_name = "DOOR")]
    door: DoorArgument,

    /// Where the doors of this machine's peer are (default: where the peer says)
    #[arg(long, value_name = "URL")]
    peer: Option<PeerUrl>,

    /// The same peer's admin address
    #[arg(long, default_value = "http://127.0.0.1:4005", value_name = "URL")]
    admin: Uri,

    /// The peer's data directory: for the proxy door, its CA is there
    #[arg(long, value_name = "DIR", default_value_os = usual_data_dir().as_os_str())]
    data_dir: PathBuf,

    #[command(flatten)]
    account: AccountArgs,

    /// How to print what was found
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    output: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DoorArgument {
    /// As containerd
    Mirror,
    /// As dockerd: CONNECT, and the peer's own CA
    Proxy,
    /// The registry in front of the repository
    Prefix,
}

/// Pulls, counts and prints; fails unless every byte came from the region.
pub(crate) async fn verify(args: VerifyArgs) -> anyhow::Result<()> {
    let report = measure(&args).await?;
    let text = args.output.render(&report, Report::for_people).context("write the answer")?;
    output::print(text.trim_end())?;
    anyhow::ensure!(report.from_region, "{}", report.verdict);
    Ok(())
}

/// The counters, a pull, the counters again.
async fn measure(args: &VerifyArgs) -> anyhow::Result<Report> {
    let credentials = args.account.credentials(&args.image.host)?;
    let peer = ready_peer(&args.admin, &args.image.host).await?;
    let door_url = match &args.peer {
        Some(url) => url.clone(),
        None => peer.door().context("the peer says no address of its doors: name it with --peer")?,
    };
    let (http, door) = way(args, &door_url)?;
    let plan = ClientPlan {
        http,
        door,
        image: args.image.clone(),
        credentials: credentials.map(Arc::new),
        progress: Arc::new(NodeProgress::default()),
    };
    let before = counters(&peer).await?;
    let started = Instant::now();
    let pulled = interruptible(plan).await?;
    let seconds = started.elapsed().as_secs_f64();
    let after = counters(&peer).await?;
    let pulled = pulled.map_err(|error| error.to_string());
    Ok(Report::new(Measured { args, door: &door_url, peer: &peer, pulled, seconds, before, after }))
}

/// A client for the door, and the door as it sees it.
fn way(args: &VerifyArgs, url: &PeerUrl) -> anyhow::Result<(HttpClient, Door)> {
    let url = url.to_string();
    // The token service may be elsewhere, and has a certificate of its own.
    let verifying = || HttpClient::verifying(None).context("make an HTTP client");
    Ok(match args.door {
        DoorArgument::Mirror => (verifying()?, Door::Mirror(url)),
        DoorArgument::Prefix => (verifying()?, Door::Prefix(url)),
        DoorArgument::Proxy => {
            let pem = read_ca(&ca_file(&args.data_dir, &args.image.host))?;
            let proxy = url.parse().context("read --peer")?;
            let http = HttpClient::through_proxy(proxy, Some(&pem)).context("trust the peer's CA")?;
            (http, Door::Proxy)
        }
    })
}

fn read_ca(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| {
        format!(
            "read the peer's CA {} (the peer makes it once it knows the registry; --data-dir names another place)",
            file.display()
        )
    })
}

async fn interruptible(plan: ClientPlan) -> anyhow::Result<Result<PulledImage, PullError>> {
    tokio::select! {
        pulled = pull(plan) => Ok(pulled),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("listen for signals")?;
            anyhow::bail!("interrupted")
        }
    }
}

async fn counters(peer: &LocalPeer) -> anyhow::Result<BytesBySource> {
    BytesBySource::of(&HttpClient::loopback(), &peer.admin).await.context("read the peer's counters")
}

#[cfg(test)]
mod tests;
