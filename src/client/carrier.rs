//! Which peer the clients of a machine are pointed at: the one that runs there says where its doors are
//! and which registries it carries, and what does not fit is refused before a file is touched.

use std::path::Path;

use anyhow::{bail, ensure};
use flotilla_proto::RegistryHost;

use super::SetupArgs;
use super::request::PeerUrl;
use crate::local_peer::LocalPeer;

/// Where the clients go.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) peer: PeerUrl,
    /// What the peer carries; `None` if it was not asked.
    pub(super) carried: Option<Vec<RegistryHost>>,
    /// What a person should know of it.
    pub(super) note: Option<String>,
}

/// Asks the peer of this machine. Where none answers, only `--peer` says where its doors will be, or
/// `--root` that another machine is meant.
pub(super) async fn find(args: &SetupArgs, registry: &RegistryHost) -> anyhow::Result<Carrier> {
    let is_here = args.root == Path::new("/");
    match (LocalPeer::ask(&args.admin).await, &args.peer) {
        (Ok(peer), None) if is_here => answered(&peer, None, registry),
        (Ok(peer), Some(url)) if is_here && !is_elsewhere(&peer, url) => answered(&peer, Some(url), registry),
        (Ok(peer), Some(url)) if is_here => {
            Ok(unasked(url.clone(), &format!("{} is another", peer.status.name)))
        }
        (Err(error), None) if is_here => {
            bail!(
                "no peer answers here: {error:#}. Start it (systemctl status flotilla-peer; journalctl -u \
                 flotilla-peer), name its admin address with --admin, or say with --peer where its doors \
                 will be"
            )
        }
        (Err(_), Some(url)) if is_here => Ok(unasked(url.clone(), "no peer answers here")),
        // The machine whose files these are does not run.
        (_, Some(url)) => Ok(unasked(url.clone(), "--root is another machine's")),
        (_, None) => Ok(unasked(usual(), "--root is another machine's")),
    }
}

/// A peer of another machine has an address of its own.
fn is_elsewhere(peer: &LocalPeer, url: &PeerUrl) -> bool {
    !url.is_loopback() && peer.door().is_none_or(|door| door.host() != url.host())
}

fn answered(peer: &LocalPeer, url: Option<&PeerUrl>, registry: &RegistryHost) -> anyhow::Result<Carrier> {
    peer.require(registry)?;
    let Some(door) = peer.door() else {
        bail!("{} says no address of its doors: name it with --peer", peer.status.name)
    };
    let url = url.cloned().unwrap_or_else(|| door.clone());
    ensure!(
        peer.is_at(&url),
        "the doors of {} are at {door}, not at {url}: leave --peer out, or say with --admin whose they are",
        peer.status.name
    );
    let carried = peer.status.registries.iter().filter_map(|host| host.parse().ok()).collect();
    Ok(Carrier { peer: url, carried: Some(carried), note: None })
}

fn unasked(peer: PeerUrl, why: &str) -> Carrier {
    let note = format!(
        "The peer was not asked ({why}): that its doors are at {peer}, and that it carries the registry, is \
         unchecked."
    );
    Carrier { peer, carried: None, note: Some(note) }
}

/// Where a peer's doors are unless its configuration says otherwise.
fn usual() -> PeerUrl {
    "http://127.0.0.1:4001".parse().expect("it is well formed")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use flotilla_manager::cli::OutputFormat;
    use hyper::Response;
    use serde_json::json;

    use super::*;
    use crate::client::request::Client;
    use crate::http::{Server, full};

    /// A peer whose doors are at `door` and that carries these.
    async fn peer(door: &'static str, registries: &'static [&'static str]) -> Server {
        let answer = move |_| async move {
            let status = json!({
                "name": "node-1", "role": "peer", "region": "eu", "door": door, "registries": registries,
            });
            Response::new(full(status.to_string()))
        };
        Server::start(answer).await.unwrap()
    }

    fn args(admin: &str, peer: Option<&str>, root: &str) -> SetupArgs {
        SetupArgs {
            client: Client::Docker,
            registry: None,
            door: None,
            peer: peer.map(|url| url.parse().unwrap()),
            admin: admin.parse().unwrap(),
            data_dir: PathBuf::new(),
            authfile: None,
            daemon_json: false,
            root: root.into(),
            dry_run: true,
            undo: false,
            output: OutputFormat::Table,
        }
    }

    async fn found(admin: &str, url: Option<&str>, registry: &str) -> anyhow::Result<Carrier> {
        find(&args(admin, url, "/"), &registry.parse().unwrap()).await
    }

    #[tokio::test]
    async fn clients_are_pointed_at_the_port_where_the_doors_are() {
        let server = peer("127.0.0.1:5001", &["reg.test", "b.test"]).await;
        for url in [None, Some("http://127.0.0.1:5001"), Some("http://localhost:5001")] {
            let carrier = found(&server.url(), url, "reg.test").await.unwrap();
            assert_eq!(carrier.peer.to_string(), url.unwrap_or("http://127.0.0.1:5001"));
            assert_eq!((carrier.carried.unwrap().len(), carrier.note), (2, None));
        }
        let error = found(&server.url(), Some("http://127.0.0.1:4001"), "reg.test").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the doors of node-1 are at http://127.0.0.1:5001, not at http://127.0.0.1:4001: leave --peer out, or \
             say with --admin whose they are"
        );
    }

    #[tokio::test]
    async fn a_registry_that_nobody_carries_is_refused() {
        let server = peer("127.0.0.1:4001", &["reg.test"]).await;
        let error = found(&server.url(), None, "b.test").await.unwrap_err().to_string();
        assert!(error.starts_with("node-1 carries no b.test, only: reg.test."), "{error}");
        let none = peer("127.0.0.1:4001", &[]).await;
        let error = found(&none.url(), None, "b.test").await.unwrap_err().to_string();
        assert!(error.contains("only: none. At the manager: flotilla registry set"), "{error}");
    }

    #[tokio::test]
    async fn a_peer_that_is_not_there_or_is_elsewhere_is_not_guessed_at() {
        let server = peer("127.0.0.1:4001", &["reg.test"]).await;
        let away = server.url();
        let elsewhere = found(&away, Some("http://10.0.0.9:4001"), "reg.test").await.unwrap();
        assert!(elsewhere.note.unwrap().contains("node-1 is another"));
        server.stop().await;
        let error = found(&away, None, "reg.test").await.unwrap_err().to_string();
        assert!(error.contains("no peer answers here") && error.contains("systemctl status"), "{error}");
        let told = found(&away, Some("http://127.0.0.1:7001"), "reg.test").await.unwrap();
        assert!(told.note.unwrap().contains("is unchecked"));
        let image = find(&args(&away, None, "/mnt"), &"reg.test".parse().unwrap()).await.unwrap();
        assert_eq!(image.peer.to_string(), "http://127.0.0.1:4001");
    }
}
