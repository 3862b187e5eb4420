//! The peer whose doors are gone through: is it ready, and does it know the registry?

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use flotilla_proto::RegistryHost;
use hyper::{StatusCode, Uri};
use serde::Deserialize;

use crate::local_peer::{LocalPeer, get};

/// A peer that is ready and carries the registry; what it lacks is the error.
pub(super) async fn ready_peer(admin: &Uri, registry: &RegistryHost) -> anyhow::Result<LocalPeer> {
    let authority = admin.authority().context("--admin reads http://host:port")?;
    let (status, body) = get(&format!("http://{authority}"), "readyz").await?;
    ensure!(status.is_success(), "the peer is not ready: {}", missing(status, &body));
    let peer = LocalPeer::ask(admin).await?;
    peer.require(registry)?;
    Ok(peer)
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
