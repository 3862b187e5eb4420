//! A peer dies in the middle of a pull and comes back.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::client::{Client, FrontDoor, Pull};
use crate::image::{Format, ImageSpec};
use crate::origin::Origin;
use crate::region::Region;
use crate::stage::Stage;
use crate::wait;

/// dockerd resumes: cut off, it asks again for the bytes it lacks. The peer that comes back
/// must still hold what it had announced, and the registry must not be read again.
pub(super) fn killed_peer_keeps_what_it_announced(stage: &Stage) -> Result<()> {
    let mut origin = Origin::start(stage)?;
    let image = ImageSpec { format: Format::Docker, layer_lens: vec![48 << 20, 10] }.build("team/app", 1);
    origin.publish(&image)?;
    let region = Region::up(stage, &origin.ca(), 1)?;
    stage.assert_fenced()?;
    let victim = region.peers().next().ok_or_else(|| anyhow!("no peer"))?;
    let (client, front_door) = (Client::Docker, FrontDoor::Proxy);
    let pull = Pull {
        stage,
        client,
        front_door,
        peer: victim,
        image: "team/app:v1",
        credentials: None,
        label: "cut",
    }
    .start()?;

    stage.slow_origin(6_000_000)?;
    let (fetched_before, held) = thread::scope(|scope| {
        let pull = scope.spawn(|| pull.run());
        let third = image.size() / 3;
        let fetched_before = wait::until("a third of the pull", Duration::from_secs(60), || {
            ensure!(!pull.is_finished(), "the pull ended before the kill");
            let fetched = victim.metrics()?.piece_bytes_fetched();
            Ok((fetched >= third).then_some(fetched))
        })?;
        victim.kill9()?;
        victim.wait_ready()?;
        stage.unslow_origin()?;
        let held = pull.join().map_err(|_| anyhow!("the pull panicked"))??;
        anyhow::Ok((fetched_before, held))
    })?;

    ensure!(held == image.digests(), "the client holds {held:?}");
    let fetched_after = victim.metrics()?.piece_bytes_fetched();
    let most = image.size() - fetched_before + UNANNOUNCED;
    ensure!(
        fetched_after <= most,
        "fetched {fetched_before} bytes before and {fetched_after} after: some twice"
    );
    origin.requests()?.assert_each_blob_read_once(&image)
}

/// Bytes that may have been fetched and counted, but not yet announced, at the kill.
const UNANNOUNCED: u64 = 4 << 20;
