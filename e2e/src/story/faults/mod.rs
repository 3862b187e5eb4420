//! A Harbor that fails: what the region hides from clients, and what it tells them.
//!
//! skopeo is the client of all of these: it neither resumes nor goes elsewhere, so when it
//! succeeds the region has done all there is to do.

mod bridged;
mod told;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flotilla_proto::Digest;

pub(super) use bridged::{are_bridged, ten_peers_at_a_slow_registry};
pub(super) use told::{bad_certificate_is_named, hang_is_told_in_time, wrong_content_reaches_no_client};

use crate::client::{Client, Curl, FrontDoor, Heard, Pull, Together};
use crate::harbor::{Access, Harbor};
use crate::image::{Format, Image, ImageSpec};
use crate::region::Region;
use crate::stage::Stage;

const ROBOT: &str = "robot$x:secret";

/// A region in front of a Harbor that is about to fail.
struct Setting<'a> {
    stage: &'a Stage,
    harbor: Harbor,
    region: Region<'a>,
}

impl<'a> Setting<'a> {
    fn lay(stage: &'a Stage, peers: usize) -> Result<Self> {
        let harbor = Harbor::start(stage)?;
        harbor.add_project("priv", Access::Private);
        harbor.add_robot("robot$x", "secret", &["priv"]);
        let region = Region::up(stage, harbor.ca(), peers)?;
        stage.assert_fenced()?;
        Ok(Self { stage, harbor, region })
    }

    /// A published image of one large layer and two small ones.
    fn image(&self, name: &str, seed: u64) -> Image {
        let spec = ImageSpec { format: Format::Oci, layer_lens: vec![LARGE_LEN, 10, 300_000] };
        let image = spec.build(&format!("priv/{name}"), seed);
        self.harbor.publish(&image, "v1");
        image
    }

    /// A client at each peer, all beginning at one moment.
    fn pulls(&self, image: &Image, label: &str) -> Result<Vec<Result<()>>> {
        let reference = format!("{}:v1", image.repository);
        let pull = |peer| Pull {
            stage: self.stage,
            client: Client::Skopeo,
            front_door: FrontDoor::Proxy,
            peer,
            image: &reference,
            credentials: Some(ROBOT),
            label,
        };
        let results = Together::start(self.region.peers().map(pull).collect())?.run();
        let check = |held: Result<_>| {
            let held = held?;
            ensure!(held == image.digests(), "the client holds {held:?}");
            Ok(())
        };
        Ok(results.into_iter().map(check).collect())
    }

    /// All clients get it, and right.
    fn pull_everywhere(&self, image: &Image, label: &str) -> Result<()> {
        self.pulls(image, label)?.into_iter().collect()
    }

    /// One request as a client with a good credential makes it, and how long the answer took.
    fn get(&self, path: &str) -> Result<(Heard, Duration)> {
        let peer = self.region.peers().next().context("no peer")?;
        let token = self.harbor.token(Some(("robot$x", "secret")), "priv/app");
        let authorization = format!("Bearer {token}");
        let (stage, front_door) = (self.stage, FrontDoor::Mirror);
        let start = Instant::now();
        let heard = Curl { stage, peer, front_door, authorization: Some(&authorization) }.get(path)?;
        Ok((heard, start.elapsed()))
    }
}

/// The layer that faults are for.
fn large(image: &Image) -> Digest {
    image.layers[0].digest()
}

const LARGE_LEN: usize = 6 << 20;
