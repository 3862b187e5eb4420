//! A disk that returns other bytes than were written: whoever finds it out, no client does.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flotilla_proto::Layout;

use crate::client::{Client, Curl, FrontDoor, Pull, Together};
use crate::harbor::{Access, Harbor};
use crate::image::{Blob, Format, Image, ImageSpec};
use crate::region::{Peer, Region};
use crate::stage::Stage;
use crate::wait;

const ROBOT: &str = "robot$x:secret";

/// The holder's own client and a node that has nothing pull at one time, so that the holder reads its
/// pieces for both. The seed and two peers hold sound ones.
pub(super) fn reaches_no_client(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    harbor.add_robot("robot$x", "secret", &["priv"]);
    let image = image(&harbor, "priv/app", vec![6 << 20, 10], 1);
    let filler = self::image(&harbor, "priv/filler", vec![FILLER_LEN], 2);
    let region = Region::up(stage, harbor.ca(), 4)?;
    stage.assert_fenced()?;
    let peers: Vec<_> = region.peers().collect();
    let (newcomer, holders) = peers.split_last().context("no peer")?;
    let damaged = holders[0];

    pull(stage, holders, &image, "warm")?;
    // Pieces that are still in memory are not read from the disk.
    pull(stage, &[damaged], &filler, "filler")?;
    let layer = &image.layers[0];
    let file = stored(&region, damaged, layer);
    let before = harbor.log();
    flip_bits(&file, layer)?;
    pull(stage, &[damaged, newcomer], &image, "damaged")?;
    let found = damaged.metrics()?.sum("flotilla_peer_store_corrupt_pieces_total", "");
    // Two readers may both find one.
    ensure!(found >= FLIPPED as u64, "{found} damaged pieces were found on the disk, not {FLIPPED}");

    for peer in &peers {
        assert_right_layer(stage, peer, &image).with_context(|| peer.name.clone())?;
    }
    let log = harbor.log().since(&before);
    log.assert_no_blob_read().with_context(|| format!("peers hold every piece:\n{log}"))?;
    wait::until("the file mended", Duration::from_secs(30), || {
        Ok((fs::read(&file)? == layer.content()).then_some(()))
    })?;
    region.assert_no_error_logged()
}

fn image(harbor: &Harbor, repository: &str, layer_lens: Vec<usize>, seed: u64) -> Image {
    let image = ImageSpec { format: Format::Oci, layer_lens }.build(repository, seed);
    harbor.publish(&image, "v1");
    image
}

/// A client at each of these peers, all beginning at one moment, each with nothing of it.
fn pull(stage: &Stage, peers: &[&Peer], image: &Image, label: &str) -> Result<()> {
    let reference = format!("{}:v1", image.repository);
    let (client, front_door) = (Client::Skopeo, FrontDoor::Proxy);
    let pull =
        |peer| Pull { stage, client, front_door, peer, image: &reference, credentials: Some(ROBOT), label };
    for held in Together::start(peers.iter().copied().map(pull).collect())?.run() {
        let held = held?;
        ensure!(held == image.digests(), "the client holds {held:?}");
    }
    Ok(())
}

/// Byte for byte, as a client that checks nothing would have it.
fn assert_right_layer(stage: &Stage, peer: &Peer, image: &Image) -> Result<()> {
    let authorization = format!("Basic {}", BASE64_STANDARD.encode(ROBOT));
    let curl = Curl { stage, peer, front_door: FrontDoor::Mirror, authorization: Some(&authorization) };
    let layer = &image.layers[0];
    let heard = curl.get(&format!("{}/blobs/{}", image.repository, layer.digest()))?;
    ensure!(heard.status == 200 && heard.is_whole, "answered {}", heard.status);
    ensure!(heard.body == layer.content(), "other bytes");
    Ok(())
}

/// Where a peer keeps a blob.
fn stored(region: &Region<'_>, peer: &Peer, blob: &Blob) -> PathBuf {
    region.dir().join(&peer.name).join("store/blobs/sha256").join(blob.digest().hex())
}

/// Flips one bit in the first piece, in one in the middle and in the last, in the file that is open.
fn flip_bits(file: &PathBuf, blob: &Blob) -> Result<()> {
    ensure!(fs::read(file).context("read the stored blob")? == blob.content(), "it is not there whole");
    let layout = Layout::of(blob.size()).context("too large")?;
    let last = layout.last_piece().context("empty")?;
    ensure!(last as usize >= FLIPPED, "too few pieces");
    let file = File::options().write(true).open(file).context("open the stored blob")?;
    for piece in [0, last / 2, last] {
        let range = layout.piece_range(piece);
        let offset = usize::try_from(range.start.midpoint(range.end))?;
        file.write_all_at(&[blob.content()[offset] ^ 1], offset as u64).context("flip a bit")?;
    }
    Ok(())
}

const FLIPPED: usize = 3;
/// More than a peer keeps of pieces in memory (`RECENT_BYTES` in peer/src/store/recent.rs).
const FILLER_LEN: usize = 40 << 20;
