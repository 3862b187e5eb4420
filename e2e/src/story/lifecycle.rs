//! What a user has installed for a door stays good, and what is not the region's is left alone.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::client::{Curl, FrontDoor};
use crate::harbor::{Access, Harbor};
use crate::region::{Peer, Region};
use crate::stage::{STORAGE_HOST, Stage};

/// A client trusts a copy of the peer's authorities: it must be good for the next life, too.
pub(super) fn authorities_outlive_a_restart(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    let region = Region::up(stage, harbor.ca(), 1)?;
    let peer = region.peers().next().context("no peer")?;
    let installed = stage.dir("home")?.join("installed.pem");
    fs::copy(&peer.ca, &installed).context("install the peer's CA")?;
    let client = Peer { ca: installed, ..peer.clone() };
    let curl = Curl { stage, peer: &client, front_door: FrontDoor::Proxy, authorization: None };

    ensure!(curl.get("")?.status == 401, "the registry does not ask who it is");
    region.restart_peers()?;
    let heard = curl.get("")?;
    ensure!(heard.status == 401, "after a restart: answered {}", heard.status);
    Ok(())
}

/// A host that is no registry of the region's keeps its certificate: nobody reads what it says.
pub(super) fn other_hosts_are_tunnels(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    let region = Region::up(stage, harbor.ca(), 1)?;
    let peer = region.peers().next().context("no peer")?;
    let own = Peer { ca: harbor.ca().to_owned(), ..peer.clone() };
    let url = format!("https://{STORAGE_HOST}/");
    let ask =
        |peer| Curl { stage, peer, front_door: FrontDoor::Proxy, authorization: None }.get_by_proxy(&url);

    let heard = ask(&own)?;
    ensure!(heard.status == 403, "the object store answers {} to its own CA", heard.status);
    let heard = ask(peer)?;
    ensure!(heard.status == 0, "the peer shows a certificate of its own for {STORAGE_HOST}");
    region.assert_no_error_logged()
}
