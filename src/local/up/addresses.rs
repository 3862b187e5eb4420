//! Where the daemons of a region are reached, for programs (JSON) and for people.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::output::table;
use flotilla_proto::{RegistryHost, Role};
use serde::Serialize;

/// Every daemon's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Addresses {
    /// gRPC, as a URL.
    pub(crate) manager: String,
    /// gRPC, as a URL.
    pub(crate) scheduler: String,
    /// The seed first.
    pub(crate) peers: Vec<PeerAddresses>,
}

/// One peer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PeerAddresses {
    /// Its name.
    pub(crate) name: String,
    /// Peer or seed.
    pub(crate) role: Role,
    /// The front doors' URL.
    pub(crate) door: String,
    /// The URL of health, metrics and status.
    pub(crate) admin: String,
    /// The certificates that clients of the proxy door must trust.
    pub(crate) ca: PathBuf,
}

impl Addresses {
    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("texts make JSON")
    }

    /// A table, and the lines to paste for each client of the first peer.
    pub(crate) fn for_people(&self, registries: &[RegistryHost]) -> String {
        let mut table = table(["NAME", "ROLE", "DOOR", "ADMIN"]);
        table.add_row(["manager", "manager", "", &self.manager]);
        table.add_row(["scheduler", "scheduler", "", &self.scheduler]);
        for peer in &self.peers {
            table.add_row([&peer.name, peer.role.as_str(), &peer.door, &peer.admin]);
        }
        let mut text = format!("{}\n", table.trim_fmt());
        let clients_peer = self.peers.iter().find(|peer| peer.role == Role::Peer);
        if let (Some(peer), Some(registry)) = (clients_peer, registries.first()) {
            write!(text, "\n{}", lines_to_paste(peer, registry)).expect("a text grows");
        }
        text
    }
}

/// Set-up of each client for pulls of `registry` through `peer`.
fn lines_to_paste(peer: &PeerAddresses, registry: &RegistryHost) -> String {
    let PeerAddresses { name, door, ca, .. } = peer;
    let ca = ca.display();
    let (docker, server) = match registry.is_docker_hub() {
        // dockerd reads no CA of its own for the hub, and containerd knows by itself where the hub is.
        true => (
            format!(
                "docker, in /etc/docker/daemon.json, and then systemctl reload docker:\n  \
                 {{ \"registry-mirrors\": [\"{door}\"] }}"
            ),
            String::new(),
        ),
        false => (
            format!(
                "docker, in dockerd's environment (systemctl edit docker), with the CA where dockerd looks for it:\n  \
                 install -D {ca} /etc/docker/certs.d/{registry}/flotilla.crt\n  HTTPS_PROXY={door}"
            ),
            format!("  server = \"https://{registry}\"\n"),
        ),
    };
    format!(
        r#"To pull {registry}/REPOSITORY:TAG through {name}:

{docker}

containerd, in /etc/containerd/certs.d/{registry}/hosts.toml:
{server}  [host."{door}/v2/{registry}"]
    capabilities = ["pull", "resolve"]
    override_path = true

skopeo:
  HTTPS_PROXY={door} SSL_CERT_FILE={ca} skopeo copy docker://{registry}/REPOSITORY:TAG dir:/tmp/image
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_one_line_with_urls_and_paths() {
        let line = addresses().json();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["manager"], "https://127.0.0.1:1");
        assert_eq!(value["peers"][1]["role"], "peer");
        assert_eq!(value["peers"][1]["door"], "http://127.0.0.1:5");
        assert_eq!(value["peers"][1]["ca"], "/dir/peer-0/ca-bundle.pem");
    }

    #[test]
    fn people_get_lines_that_they_can_paste() {
        let text = addresses().for_people(&["reg.test".parse().unwrap()]);
        for line in [
            "  install -D /dir/peer-0/ca-bundle.pem /etc/docker/certs.d/reg.test/flotilla.crt",
            "  HTTPS_PROXY=http://127.0.0.1:5",
            "  [host.\"http://127.0.0.1:5/v2/reg.test\"]",
            "    override_path = true",
            "  server = \"https://reg.test\"",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn docker_hub_is_reached_as_its_clients_reach_it() {
        let text = addresses().for_people(&["registry-1.docker.io".parse().unwrap()]);
        assert!(text.contains("  { \"registry-mirrors\": [\"http://127.0.0.1:5\"] }"), "{text}");
        assert!(text.contains("certs.d/docker.io/hosts.toml") && !text.contains("server ="), "{text}");
        assert!(!text.contains("/etc/docker/certs.d"), "{text}");
    }

    fn addresses() -> Addresses {
        let peer = |name: &str, role, door: u16| PeerAddresses {
            name: name.to_owned(),
            role,
            door: format!("http://127.0.0.1:{door}"),
            admin: format!("http://127.0.0.1:{}", door + 1),
            ca: format!("/dir/{name}/ca-bundle.pem").into(),
        };
        Addresses {
            manager: "https://127.0.0.1:1".into(),
            scheduler: "https://127.0.0.1:2".into(),
            peers: vec![peer("seed-0", Role::Seed, 3), peer("peer-0", Role::Peer, 5)],
        }
    }
}
