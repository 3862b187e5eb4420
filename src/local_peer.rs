//! The peer of a machine, asked at its admin address where its doors are and which registries it carries.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use flotilla_proto::RegistryHost;
use hyper::{StatusCode, Uri};
use serde::Deserialize;

use crate::client::PeerUrl;
use crate::http::HttpClient;

/// A peer that answers.
#[derive(Debug)]
pub(crate) struct LocalPeer {
    /// `http://host:port` of its admin address.
    pub(crate) admin: String,
    pub(crate) status: Status,
}

/// What is needed of `/status`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) region: String,
    /// Where its doors listen: `address:port`.
    pub(crate) door: String,
    pub(crate) registries: Vec<String>,
}

impl LocalPeer {
    /// Asks it.
    pub(crate) async fn ask(admin: &Uri) -> anyhow::Result<Self> {
        let authority = admin.authority().context("--admin reads http://host:port")?;
        let admin = format!("http://{authority}");
        let (code, body) = get(&admin, "status").await?;
        ensure!(code.is_success(), "{admin}/status answers {code}: {}", body.trim());
        let status = serde_json::from_str(&body)
            .with_context(|| format!("{admin}/status is no peer's: --admin names another daemon"))?;
        Ok(Self { admin, status })
    }

    /// Fails unless the peer carries the registry; says which it does.
    pub(crate) fn require(&self, registry: &RegistryHost) -> anyhow::Result<()> {
        let Status { name, registries, .. } = &self.status;
        ensure!(
            self.carries(registry),
            "{name} carries no {registry}, only: {}. At the manager: flotilla registry set",
            if registries.is_empty() { "none".to_owned() } else { registries.join(", ") }
        );
        Ok(())
    }

    /// Whether the registry is one of the region's.
    pub(crate) fn carries(&self, registry: &RegistryHost) -> bool {
        self.status.registries.iter().any(|known| known.parse().as_ref() == Ok(registry))
    }

    /// Its doors, as clients of its machine reach them; `None` where it says no address.
    pub(crate) fn door(&self) -> Option<PeerUrl> {
        let address: SocketAddr = self.status.door.parse().ok()?;
        // A socket that is bound to every address of a family answers on loopback too, and a dual one
        // on that of IPv4.
        let host = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
        format!("http://{}", SocketAddr::new(host, address.port())).parse().ok()
    }

    /// Whether `peer` is the way to its doors, seen from a machine that reaches its admin address so: a
    /// container may listen on 0.0.0.0.
    pub(crate) fn is_at(&self, peer: &PeerUrl) -> bool {
        let door = &self.status.door;
        let (host, port) = door.rsplit_once(':').unwrap_or((door, ""));
        let host = host.trim_matches(['[', ']']);
        let admin: Option<Uri> = self.admin.parse().ok();
        let admin_host = admin.as_ref().and_then(Uri::host).unwrap_or_default().trim_matches(['[', ']']);
        let asked_port = peer.authority().rsplit_once(':').map_or("", |(_, port)| port);
        port == asked_port && (peer.host() == admin_host || peer.host() == host || self.listens_here(peer))
    }

    /// Two names of loopback are one place.
    fn listens_here(&self, peer: &PeerUrl) -> bool {
        peer.is_loopback() && self.door().is_some_and(|door| door.is_loopback())
    }
}

/// A page of the peer's.
pub(crate) async fn get(admin: &str, page: &str) -> anyhow::Result<(StatusCode, String)> {
    let uri: Uri = format!("{admin}/{page}").parse().context("--admin reads http://host:port")?;
    let answer = HttpClient::loopback().get_text(uri, ANSWER_WITHIN).await;
    answer.with_context(|| format!("ask the peer at {admin} (does it run? --admin names another address)"))
}

/// A peer answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(admin: &str, door: &str) -> LocalPeer {
        let status = Status {
            name: "node-1".to_owned(),
            role: "peer".to_owned(),
            region: "eu".to_owned(),
            door: door.to_owned(),
            registries: vec!["docker.io".to_owned(), "reg.test:5000".to_owned()],
        };
        LocalPeer { admin: format!("http://{admin}"), status }
    }

    #[test]
    fn a_door_is_a_peers_own_by_its_port_and_machine() {
        for (url, door, admin, own) in [
            ("http://127.0.0.1:4001", "127.0.0.1:4001", "127.0.0.1:4005", true),
            ("http://localhost:4001", "127.0.0.1:4001", "127.0.0.1:4005", true),
            ("http://127.0.0.1:4001", "0.0.0.0:4001", "127.0.0.1:4005", true),
            ("http://[::1]:4001", "[::1]:4001", "127.0.0.1:4005", true),
            ("http://10.0.0.7:4001", "10.0.0.7:4001", "127.0.0.1:4005", true),
            ("http://10.0.0.7:4001", "0.0.0.0:4001", "10.0.0.7:4005", true),
            ("http://10.0.0.9:4001", "127.0.0.1:4001", "127.0.0.1:4005", false),
            ("http://127.0.0.1:5000", "127.0.0.1:4001", "127.0.0.1:4005", false),
        ] {
            assert_eq!(peer(admin, door).is_at(&url.parse().unwrap()), own, "{url} {door}");
        }
    }

    #[test]
    fn a_client_is_sent_to_an_address_that_it_can_dial() {
        for (door, url) in [
            ("127.0.0.1:5001", Some("http://127.0.0.1:5001")),
            ("0.0.0.0:4001", Some("http://127.0.0.1:4001")),
            ("[::]:4001", Some("http://127.0.0.1:4001")),
            ("[fd00::7]:4001", Some("http://[fd00::7]:4001")),
            ("", None),
        ] {
            let found = peer("127.0.0.1:4005", door).door();
            assert_eq!(found.map(|url| url.to_string()).as_deref(), url, "{door}");
        }
    }

    #[test]
    fn a_registry_is_carried_by_any_of_its_names() {
        let peer = peer("127.0.0.1:4005", "127.0.0.1:4001");
        for (registry, carried) in
            [("registry-1.docker.io", true), ("reg.test:5000", true), ("reg.test", false), ("b.test", false)]
        {
            assert_eq!(peer.require(&registry.parse().unwrap()).is_ok(), carried, "{registry}");
        }
        let error = peer.require(&"b.test".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("carries no b.test, only: docker.io, reg.test:5000."), "{error}");
    }
}
