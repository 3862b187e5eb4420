//! `flotilla health`: one GET, for a container's health check, where there is no curl.

use std::time::Duration;

use hyper::Uri;

use crate::absent;
use crate::http::HttpClient;

/// What `flotilla health` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthArgs {
    /// What to ask, over plain HTTP; any 2xx is well
    #[arg(long, value_name = "URL")]
    url: Uri,
}

/// Fails unless the answer is a success.
pub(crate) async fn health(args: HealthArgs) -> anyhow::Result<()> {
    let answer = HttpClient::loopback().get_text(args.url.clone(), ANSWER_WITHIN).await;
    let (status, body) = answer.map_err(|error| absent::explain(&args.url, error))?;
    anyhow::ensure!(status.is_success(), "{} answers {status}: {}", args.url, body.trim());
    Ok(())
}

/// Shorter than the time that container runtimes give a health check by default, 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
