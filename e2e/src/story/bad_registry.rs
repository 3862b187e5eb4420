//! A registry that is unknown, hangs, is gone or lies: named at the door, in time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::client::{Client, FrontDoor, Pull};
use crate::http::{self, Response};
use crate::image::{Format, Image, ImageSpec};
use crate::origin::Origin;
use crate::region::{Peer, Region};
use crate::stage::{REGISTRY_HOST, Stage};
use crate::wait;

pub(super) fn unknown_registry_is_named(stage: &Stage) -> Result<()> {
    let mut origin = Origin::start(stage)?;
    let region = Region::up(stage, &origin.ca(), 1)?;
    let peer = only_peer(&region)?;

    for path in ["v2/team/app/manifests/v1?ns=other.test", "v2/other.test:5000/team/app/manifests/v1"] {
        let answer = ask(peer, path)?;
        ensure!(answer.status == 404, "{path}: {}", answer.status);
        let message = oci_message(&answer)?;
        ensure!(message.contains("other.test"), "{path}: does not name the registry: {message}");
    }
    ensure!(origin.requests()?.requests.is_empty(), "the registry was asked for another's images");
    Ok(())
}

pub(super) fn hung_registry_is_reported_in_time(stage: &Stage) -> Result<()> {
    let origin = Origin::start(stage)?;
    origin.publish(&small_image())?;
    let region = Region::up(stage, &origin.ca(), 1)?;
    let peer = only_peer(&region)?;

    origin.hang()?;
    assert_unavailable(peer, "cold")?;
    origin.unhang()?;
    assert_comes_back(peer)?;

    // The seed now holds a warm connection, which hangs in another place.
    origin.hang()?;
    assert_unavailable(peer, "warm")?;
    origin.unhang()?;
    assert_comes_back(peer)
}

pub(super) fn stopped_registry_is_reported_in_time(stage: &Stage) -> Result<()> {
    let mut origin = Origin::start(stage)?;
    origin.publish(&small_image())?;
    let region = Region::up(stage, &origin.ca(), 1)?;
    let peer = only_peer(&region)?;

    origin.stop();
    assert_unavailable(peer, "stopped")?;
    origin.resume()?;
    assert_comes_back(peer)
}

pub(super) fn wrong_bytes_reach_no_client(stage: &Stage) -> Result<()> {
    let origin = Origin::start(stage)?;
    let image = ImageSpec { format: Format::Oci, layer_lens: vec![10, 5 << 20] }.build("team/app", 1);
    origin.publish(&image)?;
    let region = Region::up(stage, &origin.ca(), 2)?;
    let peer = region.peers().next().context("no peer")?;
    let pull = |label| {
        let (client, front_door) = (Client::Skopeo, FrontDoor::Mirror);
        Pull { stage, client, front_door, peer, image: "team/app:v1", credentials: None, label }
            .start()?
            .run()
    };

    let layer = &image.layers[1];
    origin.flip_bit(layer.digest())?;
    ensure!(pull("wrong").is_err(), "the client accepted a wrong image");
    let body =
        ask(peer, &format!("v2/team/app/blobs/{}", layer.digest())).map_or_else(|_| Vec::new(), |a| a.body);
    ensure!(body.len() < layer.content().len(), "a complete wrong body was released");

    origin.flip_bit(layer.digest())?;
    let held = wait::until("a right pull once the registry is right", Duration::from_secs(60), || {
        Ok(pull("right").ok())
    })?;
    ensure!(held == image.digests(), "the client holds {held:?}");
    Ok(())
}

/// A clear error, with a status that clients try again on, in the time that dockerd waits.
fn assert_unavailable(peer: &Peer, when: &str) -> Result<()> {
    let answer = ask(peer, MANIFEST)?;
    ensure!(matches!(answer.status, 502..=504), "{when}: answered {}", answer.status);
    ensure!(answer.took < BOUND, "{when}: answered after {:?}", answer.took);
    let message = oci_message(&answer)?;
    ensure!(message.contains(REGISTRY_HOST), "{when}: does not name the registry: {message}");
    Ok(())
}

fn assert_comes_back(peer: &Peer) -> Result<()> {
    wait::until("the registry's answer again", Duration::from_secs(30), || {
        Ok((ask(peer, MANIFEST)?.status == 200).then_some(()))
    })
}

/// GETs from the mirror door.
fn ask(peer: &Peer, path: &str) -> Result<Response> {
    http::get(&format!("http://{}/{path}", peer.door_authority()), BOUND * 2)
}

/// The message of an error body (OCI distribution-spec, "Error Codes").
fn oci_message(answer: &Response) -> Result<String> {
    let text = String::from_utf8_lossy(&answer.body);
    let body: Value = serde_json::from_str(&text).with_context(|| format!("not an OCI error: {text}"))?;
    let error = &body["errors"][0];
    ensure!(error["code"].is_string(), "no code: {text}");
    Ok(error["message"].as_str().with_context(|| format!("no message: {text}"))?.to_owned())
}

fn small_image() -> Image {
    ImageSpec { format: Format::Docker, layer_lens: vec![10] }.build("team/app", 1)
}

fn only_peer<'a>(region: &'a Region<'_>) -> Result<&'a Peer> {
    region.peers().next().context("the region has no peer")
}

const MANIFEST: &str = "v2/team/app/manifests/v1?ns=harbor.test";
/// Headers or a clear error come within this.
const BOUND: Duration = Duration::from_secs(10);
