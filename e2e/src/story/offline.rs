//! A registry that is gone: what it granted before goes on where the operator says so, and nothing else
//! does (docs/design.md §7).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::client::{Client, Curl, FrontDoor, Heard, Pull};
use crate::harbor::{Access, Harbor};
use crate::image::{Format, Image, ImageSpec};
use crate::region::{Peer, Region};
use crate::stage::{REGISTRY_HOST, Stage};
use crate::wait;

/// May pull, and has.
const ROBOT: &str = "robot$x:secret";
/// May pull, and has not: nobody has asked the registry for it.
const SECOND_ROBOT: &str = "robot$y:another secret";
/// Whom nothing was granted.
const STRANGERS: [(&str, Option<&str>); 4] = [
    ("no credential", None),
    ("a wrong secret", Some("robot$x:guessed")),
    ("another project's robot", Some("robot$other:secret of the other")),
    ("a robot that never came", Some(SECOND_ROBOT)),
];

/// ctr asks for the manifest without a credential first, the others for `/v2/`. As a client of the proxy
/// ctr asks the token service with POST, which is sent on to the registry whatever it is, so that it
/// cannot pull while that is gone.
const CLIENTS: [(Client, FrontDoor); 4] = [
    (Client::Ctr, FrontDoor::Mirror),
    (Client::Docker, FrontDoor::Proxy),
    (Client::Skopeo, FrontDoor::Proxy),
    (Client::Buildah, FrontDoor::Mirror),
];

pub(super) fn granted_serves_what_the_region_holds(stage: &Stage) -> Result<()> {
    let mut harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    harbor.add_project("other", Access::Private);
    for robot in [ROBOT, SECOND_ROBOT] {
        let (name, secret) = robot.split_once(':').context("a name and a secret")?;
        harbor.add_robot(name, secret, &["priv"]);
    }
    harbor.add_robot("robot$other", "secret of the other", &["other"]);
    nothing_by_default(stage, &mut harbor).context("by default")?;
    to_whom_it_was_granted(stage, &mut harbor).context("offline = granted")
}

/// All is told in time, and names who is gone.
fn nothing_by_default(stage: &Stage, harbor: &mut Harbor) -> Result<()> {
    let region = Region::up(stage, harbor.ca(), 1)?;
    stage.assert_fenced()?;
    let scene = Scene::set(stage, harbor, &region, "priv/refused", 1)?;
    scene.all_pull("warm")?;

    harbor.stop();
    scene.all_are_refused("gone", Some(ROBOT))?;
    scene.assert_unavailable(Some(ROBOT), &scene.manifest())?;
    scene.assert_unavailable(Some(SECOND_ROBOT), &scene.layer())?;

    harbor.resume(stage)?;
    scene.pulls_again()?;
    region.assert_no_error_logged()
}

fn to_whom_it_was_granted(stage: &Stage, harbor: &mut Harbor) -> Result<()> {
    let region = Region::up_with_keys(stage, harbor.ca(), "offline=granted", 1)?;
    stage.assert_fenced()?;
    let scene = Scene::set(stage, harbor, &region, "priv/granted", 2)?;
    scene.all_pull("warm")?;

    harbor.stop();
    scene.all_pull("gone")?;
    for (index, (who, credentials)) in STRANGERS.iter().enumerate() {
        scene.all_are_refused(&format!("stranger-{index}"), *credentials).context(*who)?;
        scene.assert_no_layer(*credentials).context(*who)?;
    }
    // The others' refusals are not the holder's.
    scene.all_pull("gone-still")?;

    harbor.resume(stage)?;
    scene.pulls_again()?;
    // Also what is not here.
    Scene::set(stage, harbor, &region, "priv/cold", 3)?.all_pull("back")?;
    region.assert_no_error_logged()
}

/// An image at the only peer of a region.
struct Scene<'a> {
    stage: &'a Stage,
    peer: &'a Peer,
    image: Image,
}

impl<'a> Scene<'a> {
    fn set(
        stage: &'a Stage,
        harbor: &Harbor,
        region: &'a Region<'_>,
        repository: &str,
        seed: u64,
    ) -> Result<Self> {
        let spec = ImageSpec { format: Format::Docker, layer_lens: vec![3 << 20, 10, 300_000] };
        let image = spec.build(repository, seed);
        harbor.publish(&image, "v1");
        Ok(Self { stage, peer: region.peers().next().context("no peer")?, image })
    }

    /// Each client gets all of it by its tag, having nothing of it.
    fn all_pull(&self, label: &str) -> Result<()> {
        CLIENTS.iter().try_for_each(|&of| self.pull(of, label))
    }

    fn pull(&self, of: (Client, FrontDoor), label: &str) -> Result<()> {
        let (reference, label) = (self.reference(), format!("{:?}-{label}-{}", of.0, self.name()));
        let held = self.pull_of(of, &reference, &label, Some(ROBOT)).start()?.run()?;
        ensure!(held == self.image.digests(), "{:?} holds {held:?}", of.0);
        Ok(())
    }

    fn all_are_refused(&self, label: &str, credentials: Option<&str>) -> Result<()> {
        for of in CLIENTS {
            let (reference, label) = (self.reference(), format!("{:?}-{label}-{}", of.0, self.name()));
            let pull = self.pull_of(of, &reference, &label, credentials);
            pull.start()?.refused(&pull)?;
        }
        Ok(())
    }

    fn pull_of<'b>(
        &'b self,
        (client, front_door): (Client, FrontDoor),
        image: &'b str,
        label: &'b str,
        credentials: Option<&'b str>,
    ) -> Pull<'b> {
        Pull { stage: self.stage, client, front_door, peer: self.peer, image, credentials, label }
    }

    /// A seed that lately found nobody there may say so a little longer.
    fn pulls_again(&self) -> Result<()> {
        let mut rounds = 0;
        wait::until("a pull once the registry is back", Duration::from_secs(60), || {
            rounds += 1;
            Ok(self.pull(CLIENTS[0], &format!("back-{rounds}")).ok())
        })?;
        CLIENTS[1..].iter().try_for_each(|&of| self.pull(of, "back"))
    }

    /// A status that clients try again on, in time, with a message that says who is gone.
    fn assert_unavailable(&self, credentials: Option<&str>, path: &str) -> Result<()> {
        for front_door in [FrontDoor::Proxy, FrontDoor::Mirror] {
            let began_at = Instant::now();
            let heard = self.get(front_door, credentials, path)?;
            let took = began_at.elapsed();
            ensure!(matches!(heard.status, 502..=504), "{front_door:?} {path}: answered {}", heard.status);
            ensure!(took < BOUND, "{front_door:?} {path}: answered after {took:?}");
            let message = heard.error_message()?;
            ensure!(message.contains(REGISTRY_HOST), "{path}: does not name the registry: {message}");
        }
        Ok(())
    }

    /// Not by the tag, not by the manifest's digest, and not directly.
    fn assert_no_layer(&self, credentials: Option<&str>) -> Result<()> {
        let by_digest = format!("{}/manifests/{}", self.image.repository, self.image.manifest.digest());
        for front_door in [FrontDoor::Proxy, FrontDoor::Mirror] {
            for path in [self.manifest(), by_digest.clone(), self.layer()] {
                let heard = self.get(front_door, credentials, &path)?;
                ensure!(heard.status >= 400, "{front_door:?} {path}: answered {}", heard.status);
                // All that came is an error.
                heard.error_message().with_context(|| format!("{front_door:?} {path}"))?;
            }
        }
        Ok(())
    }

    fn get(&self, front_door: FrontDoor, credentials: Option<&str>, path: &str) -> Result<Heard> {
        let authorization = credentials.map(|pair| format!("Basic {}", BASE64_STANDARD.encode(pair)));
        let (stage, peer) = (self.stage, self.peer);
        Curl { stage, peer, front_door, authorization: authorization.as_deref() }.get(path)
    }

    fn manifest(&self) -> String {
        format!("{}/manifests/v1", self.image.repository)
    }

    fn layer(&self) -> String {
        format!("{}/blobs/{}", self.image.repository, self.image.layers[0].digest())
    }

    fn reference(&self) -> String {
        format!("{}:v1", self.image.repository)
    }

    fn name(&self) -> String {
        self.image.repository.replace('/', "-")
    }
}

/// Headers or a clear error come within this.
const BOUND: Duration = Duration::from_secs(10);
