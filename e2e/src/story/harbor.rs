//! Private projects of a Harbor.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION};

use crate::client::{Client, FrontDoor, Pull};
use crate::exchange::{Request, Server};
use crate::harbor::{Access, Auth, Harbor, Host, On, What};
use crate::image::{Format, Image, ImageSpec};
use crate::process;
use crate::region::{Peer, Region};
use crate::stage::{REGISTRY_HOST, Side, Stage};
use crate::wait;

pub(super) fn private_pull(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    harbor.add_robot("robot$x", "secret", &["priv"]);
    let image = ImageSpec::multi_layer(Format::Oci).build("priv/app", 1);
    harbor.publish(&image, "v1");
    let region = Region::up(stage, harbor.ca(), 1)?;
    stage.assert_fenced()?;

    let pull = Pull {
        stage,
        client: Client::Skopeo,
        front_door: FrontDoor::Proxy,
        peer: region.peers().next().context("no peer")?,
        image: "priv/app:v1",
        credentials: Some("robot$x:secret"),
        label: "private",
    };
    let held = pull.start()?.run()?;
    ensure!(held == image.digests(), "the client holds {held:?}, the registry {:?}", image.digests());
    let log = harbor.log();
    log.assert_each_blob_read_once(&image).with_context(|| log.to_string())?;
    let anonymous = log.filter(|request| request.auth == Auth::Anonymous && request.status < 400);
    ensure!(anonymous.requests.is_empty(), "something came without a credential:\n{anonymous}");
    ensure!(log.to(Host::Storage).requests.is_empty(), "nobody was sent to the object store:\n{log}");
    verify(stage, &region, pull.peer)?;
    region.assert_no_error_logged()
}

/// What an operator asks first: Harbor's own token service lets `flotilla verify` in, by any door.
fn verify(stage: &Stage, region: &Region<'_>, peer: &Peer) -> Result<()> {
    let authfile = stage.dir("home")?.join("verify.json");
    let auth = serde_json::json!({ "auth": STANDARD.encode("robot$x:secret") });
    fs::write(&authfile, serde_json::json!({ "auths": { REGISTRY_HOST: auth } }).to_string())?;
    for door in ["mirror", "proxy", "prefix"] {
        let mut command = stage.command(Side::Client, &stage.flotilla_path().to_string_lossy());
        command
            .args(["verify", &format!("{REGISTRY_HOST}/priv/app:v1"), "--door", door])
            .args(["--peer", &peer.door, "--admin", &peer.admin])
            .arg("--data-dir")
            .arg(region.dir().join(&peer.name))
            .arg("--authfile")
            .arg(&authfile);
        process::run(&stage.logs(), &format!("verify-{door}"), command, VERIFY_TIMEOUT)?.success()?;
    }
    Ok(())
}

/// Ten small layers, cold: a pull is two round trips, the manifest's and the blobs', whatever the number of
/// layers (docs/design.md §3). The registry answers for no blob until it was asked for all of them, so a pull
/// that needs a third never ends; how long one takes from far away is reported. Straight from the registry,
/// three at a time as Docker asks, it would be the manifest's and four.
pub(super) fn small_image_costs_two_round_trips(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    harbor.add_robot("robot$x", "secret", &["priv"]);
    let region = Region::up(stage, harbor.ca(), 1)?;
    stage.assert_fenced()?;
    let door = Server::door(region.peers().next().context("no peer")?)?;
    let image = |layers, repository: &str, seed| {
        let spec = ImageSpec { format: Format::Oci, layer_lens: vec![20 << 10; layers] };
        let image = spec.build(repository, seed);
        harbor.publish(&image, "v1");
        image
    };
    // Connections stand, as in a region that has pulled before.
    pull_by_threes(&door, &image(1, "priv/warm", 1))?;
    blobs_are_asked_for_at_once(&harbor, &door, &image(10, "priv/held", 2))?;

    harbor.configure(|behaviour| behaviour.latency = FAR);
    let mut took = Vec::new();
    for run in 3..6 {
        let image = image(10, &format!("priv/app{run}"), run);
        took.push(pull_by_threes(&door, &image)?);
    }
    stage.report(&format!("10 layers, cold, {FAR:?} from the registry: {took:?}\n"))?;
    region.assert_no_error_logged()
}

fn blobs_are_asked_for_at_once(harbor: &Harbor, door: &Server<'_>, image: &Image) -> Result<()> {
    let (before, blobs) = (harbor.log(), image.blobs().count());
    let held = harbor.fault(On::blobs().get(), What::Hang);
    thread::scope(|scope| {
        let pull = scope.spawn(|| pull_by_threes(door, image));
        let asked = wait::until("all blobs asked for", Duration::from_secs(8), || {
            Ok((held.hits() == blobs as u64).then_some(()))
        });
        held.clear();
        let pulled = pull.join().map_err(|_| anyhow!("the pull panicked"))?;
        asked.with_context(|| harbor.log_at_once().to_string())?;
        pulled
    })?;
    let log = harbor.log().since(&before);
    log.assert_each_blob_read_once(image).with_context(|| log.to_string())?;
    ensure!(log.requests.len() == 1 + blobs, "more than a manifest and {blobs} blobs:\n{log}");
    Ok(())
}

/// Pulls an image as Docker does; how long it takes from the manifest on.
fn pull_by_threes(door: &Server<'_>, image: &Image) -> Result<Duration> {
    let began_at = Instant::now();
    let repository = &image.repository;
    let manifest = get(door, format!("/v2/{repository}/manifests/v1"))?;
    ensure!(manifest == image.manifest.content(), "another manifest");
    let blobs: Vec<_> = image.blobs().collect();
    for three in blobs.chunks(3) {
        thread::scope(|scope| {
            let asked = three.iter().map(|blob| {
                let path = format!("/v2/{repository}/blobs/{}", blob.digest());
                scope.spawn(move || get(door, path))
            });
            for (asked, blob) in asked.collect::<Vec<_>>().into_iter().zip(three) {
                let bytes = asked.join().map_err(|_| anyhow!("a request panicked"))??;
                ensure!(bytes == blob.content(), "other bytes");
            }
            Ok(())
        })?;
    }
    Ok(began_at.elapsed())
}

fn get(door: &Server<'_>, path: String) -> Result<Vec<u8>> {
    let authorization = format!("Basic {}", STANDARD.encode("robot$x:secret"));
    let request = Request::new(Method::GET, path)
        .header(AUTHORIZATION, &authorization)
        .header(ACCEPT, "application/vnd.oci.image.manifest.v1+json");
    let reply = door.ask(&request)?;
    ensure!(reply.status == 200, "{reply}");
    Ok(reply.body.to_vec())
}

/// A registry on another continent.
const FAR: Duration = Duration::from_millis(200);
const VERIFY_TIMEOUT: Duration = Duration::from_secs(30);
