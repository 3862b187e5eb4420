//! A grant in real time: as long as the registry's word is believed, and not longer (docs/design.md §7).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION};

use crate::exchange::{End, Reply, Request, Server};
use crate::harbor::{Access, Harbor};
use crate::image::{Blob, Format, Image, ImageSpec};
use crate::region::Region;
use crate::stage::{REGISTRY_HOST, REGISTRY_IP, Stage};
use crate::wait;

/// Removed at the registry while its grant lives.
const GONE: (&str, &str) = ("robot$gone", "secret of the gone");
/// Stays.
const HOLDER: (&str, &str) = ("robot$x", "secret");

/// Nobody asks for the manifest, so no refusal of it takes the grant back, and to use a grant does not
/// prolong it: it ends by itself.
pub(super) fn of_basic_ends_by_itself(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    for (name, secret) in [GONE, HOLDER] {
        harbor.add_robot(name, secret, &["priv"]);
    }
    let image = ImageSpec { format: Format::Oci, layer_lens: vec![300_000, 10] }.build("priv/app", 1);
    harbor.publish(&image, "v1");
    let region = Region::up(stage, harbor.ca(), 1)?;
    stage.assert_fenced()?;
    let door = Server::door(region.peers().next().context("no peer")?)?;
    let direct = Server::at_origin(stage, REGISTRY_IP, REGISTRY_HOST, harbor.ca())?;
    let layer = &image.layers[0];

    let manifest = ask(&door, GONE, &manifest(&image))?;
    ensure!(manifest.status == 200 && manifest.body == image.manifest.content(), "{manifest}");
    assert_whole(&ask(&door, GONE, &blob(&image, layer))?, layer)?;
    harbor.remove_account(GONE.0);
    let refusal = ask(&direct, GONE, &blob(&image, layer))?;

    let before = harbor.log();
    let mut served = 0;
    let end = wait::until("the grant's end", LIFE + PATIENCE, || {
        let reply = ask(&door, GONE, &blob(&image, layer))?;
        if reply.status != 200 {
            return Ok(Some(reply));
        }
        served += 1;
        assert_whole(&reply, layer).map(|()| None)
    })?;
    ensure!(served > 0, "the grant was gone at once:\n{end}");
    assert_is(&end, &refusal)?;
    for of in image.blobs() {
        assert_is(&ask(&door, GONE, &blob(&image, of))?, &refusal)?;
    }
    // It was that account's grant alone.
    assert_whole(&ask(&door, HOLDER, &blob(&image, layer))?, layer)?;
    let log = harbor.log().since(&before);
    log.assert_no_blob_read().with_context(|| log.to_string())?;
    region.assert_no_error_logged()
}

fn assert_whole(reply: &Reply, blob: &Blob) -> Result<()> {
    let is_whole = reply.status == 200 && reply.end == End::Whole && reply.body == blob.content();
    ensure!(is_whole, "not the whole blob: {reply}");
    Ok(())
}

/// The registry's own refusal, and nothing else.
fn assert_is(reply: &Reply, refusal: &Reply) -> Result<()> {
    ensure!(matches!(refusal.status, 401 | 403), "the registry itself does not refuse: {refusal}");
    let is_same = reply.status == refusal.status
        && reply.body == refusal.body
        && reply.header("www-authenticate") == refusal.header("www-authenticate")
        && reply.header("flotilla-refused-by") == Some("registry");
    ensure!(is_same, "{reply}\nwhere the registry says {refusal}");
    Ok(())
}

fn ask(server: &Server<'_>, (name, secret): (&str, &str), path: &str) -> Result<Reply> {
    let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{secret}")));
    let request = Request::new(Method::GET, path)
        .header(AUTHORIZATION, &authorization)
        .header(ACCEPT, "application/vnd.oci.image.manifest.v1+json");
    server.ask(&request)
}

fn manifest(image: &Image) -> String {
    format!("/v2/{}/manifests/v1", image.repository)
}

fn blob(image: &Image, blob: &Blob) -> String {
    format!("/v2/{}/blobs/{}", image.repository, blob.digest())
}

/// Of a grant under a Basic credential.
const LIFE: Duration = Duration::from_secs(30);
/// A busy machine is late.
const PATIENCE: Duration = Duration::from_secs(15);
