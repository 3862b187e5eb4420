//! `flotilla peer status`: what a running peer says of itself.

use std::time::Duration;

use anyhow::Context as _;
use flotilla_manager::cli::OutputFormat;
use hyper::Uri;

use crate::absent;
use crate::http::HttpClient;
use crate::output;

/// What `flotilla peer status` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct PeerStatusArgs {
    /// The peer's admin address
    #[arg(long, default_value = "http://127.0.0.1:4005", value_name = "URL")]
    admin: Uri,

    /// How to print it
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    output: OutputFormat,
}

/// Asks and prints.
pub(crate) async fn peer_status(args: PeerStatusArgs) -> anyhow::Result<()> {
    let authority = args.admin.authority().context("--admin reads http://host:port")?;
    let uri: Uri = format!("http://{authority}/status").parse().context("--admin reads http://host:port")?;
    let answer = HttpClient::loopback().get_text(uri.clone(), ANSWER_WITHIN).await;
    let (status, body) = answer.map_err(|error| absent::explain(&uri, error))?;
    anyhow::ensure!(status.is_success(), "{uri} answers {status}: {}", body.trim());
    let status = serde_json::from_str(&body).with_context(|| format!("read the answer of {uri}"))?;
    output::print(&output::render(&status, args.output)?)
}

/// A peer answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
