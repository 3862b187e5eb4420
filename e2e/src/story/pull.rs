//! Three peers pull one image at once, then again.

use anyhow::{Result, ensure};

use crate::client::{Client, FrontDoor, Pull, Together};
use crate::image::{Format, Image, ImageSpec};
use crate::origin::Origin;
use crate::region::Region;
use crate::stage::Stage;

pub(super) fn once(stage: &Stage, client: Client, front_door: FrontDoor) -> Result<()> {
    let mut origin = Origin::start(stage)?;
    let image = ImageSpec::multi_layer(format_for(client)).build("team/app", 1);
    origin.publish(&image)?;
    let region = Region::up(stage, &origin.ca(), 3)?;
    stage.assert_fenced()?;

    // Slow enough that every pull begins before the first read has ended.
    stage.slow_origin(8_000_000)?;
    let pull = |label| PullByAll { stage, region: &region, client, front_door, image: &image, label }.run();
    pull("cold")?;
    origin.requests()?.assert_each_blob_read_once(&image)?;
    assert_only_seeds_read(&region)?;

    pull("warm")?;
    origin.requests()?.assert_no_blob_read()?;
    region.assert_no_error_logged()
}

/// Layers that take less time than a plan of them come whole from the seed, each in one request.
pub(super) fn small_layers_come_whole(stage: &Stage) -> Result<()> {
    let mut origin = Origin::start(stage)?;
    let (client, front_door) = (Client::Skopeo, FrontDoor::Mirror);
    let layer_lens = (1..=10).map(|layer| layer * 6_000).collect();
    let image = ImageSpec { format: format_for(client), layer_lens }.build("team/small", 1);
    origin.publish(&image)?;
    let region = Region::up(stage, &origin.ca(), 3)?;
    PullByAll { stage, region: &region, client, front_door, image: &image, label: "small" }.run()?;
    origin.requests()?.assert_each_blob_read_once(&image)?;
    assert_only_seeds_read(&region)?;
    let whole = region.seed()?.metrics()?.sum("flotilla_peer_small_blobs_total", "");
    let blobs = image.digests().len() as u64 - 1;
    ensure!(whole == 3 * blobs, "the seed sent {whole} blobs whole to three peers that want {blobs} each");
    for peer in region.peers() {
        let other = peer.metrics()?.piece_bytes("peer");
        ensure!(other == 0, "{} has {other} bytes by a plan", peer.name);
    }
    region.assert_no_error_logged()
}

/// One pull by each peer of a region, all beginning at one moment.
struct PullByAll<'a> {
    stage: &'a Stage,
    region: &'a Region<'a>,
    client: Client,
    front_door: FrontDoor,
    image: &'a Image,
    label: &'a str,
}

impl PullByAll<'_> {
    fn run(&self) -> Result<()> {
        let reference = format!("{}:v1", self.image.repository);
        let &Self { stage, client, front_door, label, .. } = self;
        let pull =
            |peer| Pull { stage, client, front_door, peer, image: &reference, credentials: None, label };
        for held in Together::start(self.region.peers().map(pull).collect())?.run() {
            let (held, digests) = (held?, self.image.digests());
            ensure!(held == digests, "the client holds {held:?}, the registry {digests:?}");
        }
        Ok(())
    }
}

/// Peers that are no seeds state that they read nothing from the registry.
pub(super) fn assert_only_seeds_read(region: &Region<'_>) -> Result<()> {
    for peer in region.peers() {
        let bytes = peer.metrics()?.source_bytes();
        ensure!(bytes == 0, "{} read {bytes} bytes from the registry itself", peer.name);
    }
    ensure!(region.seed()?.metrics()?.source_bytes() > 0, "the seed counts no read");
    Ok(())
}

/// Each client gets the form its users have.
pub(super) fn format_for(client: Client) -> Format {
    match client {
        Client::Docker => Format::Docker,
        Client::Ctr | Client::Skopeo | Client::Buildah | Client::Podman => Format::Oci,
    }
}
