//! The peer whose doors are gone through: is it ready, and does it know the registry?

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use flotilla_proto::RegistryHost;
use hyper::{StatusCode, Uri};
use serde::Deserialize;

use crate::http::HttpClient;

/// A peer that is ready and carries the registry.
#[derive(Debug)]
pub(super) struct AskedPeer {
    /// `http://host:port` of its admin address.
    pub(super) admin: String,
    pub(super) status: Status,
}

/// What is needed of `/status`.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) region: String,
    /// Where its doors listen: `address:port`.
    pub(super) door: String,
    registries: Vec<String>,
}

impl AskedPeer {
    /// Asks it; what it lacks is the error.
    pub(super) async fn ask(admin: &Uri, registry: &RegistryHost) -> anyhow::Result<Self> {
        let authority = admin.authority().context("--admin reads http://host:port")?;
        let admin = format!("http://{authority}");
        let (status, body) = get(&admin, "readyz").await?;
        ensure!(status.is_success(), "the peer is not ready: {}", missing(status, &body));
        let (code, body) = get(&admin, "status").await?;
        ensure!(code.is_success(), "{admin}/status answers {code}: {}", body.trim());
        let status: Status = serde_json::from_str(&body)
            .with_context(|| format!("{admin}/status is no peer's: --admin names another daemon"))?;
        let knows = status.registries.iter().any(|known| known.parse().as_ref() == Ok(registry));
        ensure!(
            knows,
            "{} carries no {registry}, only: {}. At the manager: flotilla registry set",
            status.name,
            if status.registries.is_empty() { "none".to_owned() } else { status.registries.join(", ") }
        );
        Ok(Self { admin, status })
    }
}

async fn get(admin: &str, page: &str) -> anyhow::Result<(StatusCode, String)> {
    let uri: Uri = format!("{admin}/{page}").parse().context("--admin reads http://host:port")?;
    let answer = HttpClient::loopback().get_text(uri, ANSWER_WITHIN).await;
    answer.with_context(|| format!("ask the peer at {admin} (does it run? --admin names another address)"))
}

/// What `/readyz` waits for.
fn missing(status: StatusCode, body: &str) -> String {
    #[derive(Deserialize)]
    struct NotReady {
        missing: BTreeMap<String, String>,
    }
    match serde_json::from_str(body) {
        Ok(NotReady { missing }) => {
            missing.iter().map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>().join("; ")
        }
        Err(_) => format!("/readyz answers {status}"),
    }
}

/// A peer answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_waits_for_is_named() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let body = r#"{"missing":{"scheduler":"the connection to the scheduler is lost"},"ready":false}"#;
        assert_eq!(missing(status, body), "scheduler: the connection to the scheduler is lost");
        assert_eq!(missing(status, "<html>"), "/readyz answers 503 Service Unavailable");
    }
}
