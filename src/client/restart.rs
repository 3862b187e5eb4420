//! What a client's restart does to what it runs.

use serde_json::Value;

use super::docker::DAEMON_JSON;
use super::plan::PlanError;
use super::request::Client;
use super::tree::Tree;

/// What to know before the client is restarted.
pub(super) fn note(client: Client, tree: &Tree) -> Result<&'static str, PlanError> {
    Ok(match client {
        Client::Docker if keeps_containers(&tree.text(DAEMON_JSON.as_ref())?.unwrap_or_default()) => {
            "daemon.json has live-restore: containers keep running while dockerd restarts."
        }
        Client::Docker => {
            "Restarting dockerd STOPS EVERY CONTAINER of this machine: daemon.json has no `live-restore`. With \
             \"live-restore\": true in it and `systemctl reload docker` before, they keep running (not those \
             of a swarm). These doors need no restart: --door prefix (the image's name changes), --door sni \
             (a line in /etc/hosts), and for docker.io --door mirror (a reload)."
        }
        Client::Containerd => "Containers keep running while containerd restarts; pulls under way fail.",
        Client::Crio => "Containers keep running while CRI-O restarts; pulls under way fail.",
        Client::Buildkit => "Builds under way fail when buildkitd restarts.",
        Client::Podman => "There is no daemon to restart.",
    })
}

/// Whether dockerd was told to leave containers alone when it ends.
fn keeps_containers(daemon_json: &str) -> bool {
    let settings: Option<Value> = serde_json::from_str(daemon_json).ok();
    settings.is_some_and(|settings| settings["live-restore"] == Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_outlive_dockerd_only_where_it_is_told_so() {
        assert!(keeps_containers("{\"live-restore\": true}"));
        for text in ["", "{}", "[", "{\"live-restore\": false}", "{\"live-restore\": \"true\"}"] {
            assert!(!keeps_containers(text), "{text}");
        }
    }
}
