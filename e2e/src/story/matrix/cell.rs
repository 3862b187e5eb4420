//! One cell: what a client finds at a door when nothing is there yet, and when all is.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use flotilla_proto::Digest;

use super::knock;
use super::setting::{ROBOT, SECOND_ROBOT, Setting};
use crate::client::{Client, Pull, Together};
use crate::harbor::{Auth, Host};
use crate::image::{Image, ImageSpec};
use crate::story::pull::{assert_only_seeds_read, format_for};

/// The images of a cell.
pub(super) struct Images {
    /// `priv/<client>:v1`.
    pub(super) plain: Image,
    /// `priv/<client>-multi:v1` for this machine.
    pub(super) multi: Image,
    /// The index that lists it.
    pub(super) index: Digest,
    /// `hub/<client>:v1` as its users write it: Harbor knows it as `hub/library/<client>`.
    pub(super) cached: Image,
}

/// Plays a cell; its number tells its images from another's.
pub(super) fn play(setting: &Setting<'_>, client: Client, number: u64) -> Result<()> {
    let images = publish(setting, client, number);
    cold(setting, client, &images.plain).context("cold")?;
    knock::refused_and_then_warm(setting, client, &images)?;
    index_from_storage(setting, client, &images).context("index from the object store")?;
    proxy_cache(setting, client, &images.cached).context("proxy-cache project")
}

fn publish(setting: &Setting<'_>, client: Client, number: u64) -> Images {
    let name = format!("{client:?}").to_lowercase();
    let spec = ImageSpec { format: format_for(client), layer_lens: vec![3 << 20, 10, 600_000] };
    let small = ImageSpec { layer_lens: vec![1 << 20, 10], ..spec.clone() };
    let multi = format!("priv/{name}-multi");
    let images = Images {
        plain: spec.build(&format!("priv/{name}"), 10 * number),
        multi: small.build(&multi, 10 * number + 1),
        index: Digest::of(b""),
        cached: small.build(&format!("hub/library/{name}"), 10 * number + 2),
    };
    let foreign = small.build(&multi, 10 * number + 3);
    let harbor = &setting.harbor;
    harbor.publish(&images.plain, "v1");
    harbor.publish(&images.cached, "v1");
    let index = harbor.publish_index(&[("arm64", &foreign), ("amd64", &images.multi)], "v1");
    Images { index, ..images }
}

/// Eight clients on three nodes begin together, as two accounts.
fn cold(setting: &Setting<'_>, client: Client, image: &Image) -> Result<()> {
    setting.harbor.add_robot("robot$gone", "secret of the gone", &["priv"]);
    let before = setting.harbor.log();
    let reference = format!("{}:v1", image.repository);
    let labels: Vec<_> = (0..CLIENTS).map(|index| format!("{client:?}-{index}")).collect();
    let peers = setting.region.peers().cycle();
    let pulls = labels.iter().zip(peers).zip([ROBOT, SECOND_ROBOT].iter().cycle());
    let pulls = pulls.map(|((label, peer), credentials)| Pull {
        peer,
        credentials: Some(credentials),
        ..setting.pull(client, &reference, label)
    });
    for held in Together::start(pulls.collect())?.run() {
        assert_holds(&held?, &image.digests())?;
    }
    let log = setting.log_since(&before)?;
    log.assert_each_blob_read_once(image).with_context(|| log.to_string())?;
    assert_only_seeds_read(&setting.region)
}

/// An index keeps its digest where the client keeps it, and of what it lists only this machine's
/// image is pulled. The object store serves the blobs, and is told no credential.
fn index_from_storage(setting: &Setting<'_>, client: Client, images: &Images) -> Result<()> {
    let before = setting.harbor.log();
    setting.harbor.configure(|harbor| harbor.redirect_blobs = true);
    let reference = format!("{}:v1", images.multi.repository);
    let held = setting.pull(client, &reference, "multi").start()?.run()?;
    setting.harbor.configure(|harbor| harbor.redirect_blobs = false);
    assert_holds(&held, &kept_of_index(client, images))?;

    let log = setting.log_since(&before)?;
    log.assert_each_blob_read_once(&images.multi).with_context(|| log.to_string())?;
    let storage = log.to(Host::Storage);
    ensure!(!storage.requests.is_empty(), "nobody was sent to the object store:\n{log}");
    let shown = storage.filter(|request| request.auth != Auth::Anonymous);
    ensure!(shown.requests.is_empty(), "the object store saw a credential:\n{shown}");
    Ok(())
}

/// Harbor redirects to `library/`, sends no lengths and ignores ranges: one read of each blob.
fn proxy_cache(setting: &Setting<'_>, client: Client, image: &Image) -> Result<()> {
    let before = setting.harbor.log();
    let reference = format!("{}:v1", image.repository.replace("library/", ""));
    let held = setting.pull(client, &reference, "hub").start()?.run()?;
    assert_holds(&held, &image.digests())?;
    let log = setting.log_since(&before)?;
    log.assert_each_blob_read_once(image).with_context(|| log.to_string())?;
    let reads = setting.harbor.upstream_reads(&image.repository).blobs;
    // Harbor itself reads each twice: once for the caller and once for its cache.
    ensure!(reads == 2 * image.blobs().count() as u64, "Harbor read {reads} blobs from upstream:\n{log}");
    Ok(())
}

/// What a client shows of an index and the image of it that it has pulled.
fn kept_of_index(client: Client, images: &Images) -> BTreeSet<Digest> {
    let mut kept = images.multi.digests();
    match client {
        Client::Skopeo | Client::Buildah => {}
        Client::Ctr => drop(kept.insert(images.index)),
        Client::Docker | Client::Podman => {
            kept.remove(&images.multi.manifest.digest());
            kept.insert(images.index);
        }
    }
    kept
}

pub(super) fn assert_holds(held: &BTreeSet<Digest>, expected: &BTreeSet<Digest>) -> Result<()> {
    ensure!(held == expected, "the client holds {held:?}, the registry {expected:?}");
    Ok(())
}

const CLIENTS: usize = 8;
