//! What the cells of one door share: a Harbor, its accounts, a region.

use anyhow::{Context as _, Result, ensure};

use crate::client::{Client, FrontDoor, Pull};
use crate::harbor::{Access, Harbor, ProxyCache, RequestLog};
use crate::region::Region;
use crate::stage::{REGION_IP, Stage};

/// May pull from the private project.
pub(super) const ROBOT: &str = "robot$x:secret";
/// May, until it is removed.
pub(super) const SECOND_ROBOT: &str = "robot$gone:secret of the gone";
/// Has the right name only.
pub(super) const WRONG_SECRET: &str = "robot$x:guessed";
/// May pull from another project.
pub(super) const OTHER_ROBOT: &str = "robot$other:secret of the other";

/// A region in front of a Harbor.
pub(super) struct Setting<'a> {
    pub(super) stage: &'a Stage,
    pub(super) front_door: FrontDoor,
    pub(super) harbor: Harbor,
    pub(super) region: Region<'a>,
}

impl<'a> Setting<'a> {
    /// A Harbor with a private project and a cache of Docker Hub, and three nodes.
    pub(super) fn lay(stage: &'a Stage, front_door: FrontDoor) -> Result<Self> {
        let harbor = Harbor::start(stage)?;
        harbor.add_project("priv", Access::Private);
        harbor.add_project("other", Access::Private);
        harbor.add_proxy_cache("hub", ProxyCache { library: true, ..ProxyCache::default() });
        harbor.add_robot("robot$x", "secret", &["priv", "hub"]);
        harbor.add_robot("robot$other", "secret of the other", &["other"]);
        let region = match front_door {
            FrontDoor::Sni => up_behind_sni_doors(stage, &harbor)?,
            FrontDoor::Proxy | FrontDoor::Mirror | FrontDoor::Prefix => {
                Region::up(stage, harbor.ca(), NODES)?
            }
        };
        stage.assert_fenced()?;
        // Slow enough that every pull of a cold start begins before the first read has ended.
        stage.slow_origin(8_000_000)?;
        Ok(Self { stage, front_door, harbor, region })
    }

    /// The pull of `image` by one of several clients, each at the next node.
    pub(super) fn pull(&'a self, client: Client, image: &'a str, label: &'a str) -> Pull<'a> {
        let peer = self.region.peers().next().expect("the region has three");
        let (stage, front_door) = (self.stage, self.front_door);
        Pull { stage, client, front_door, peer, image, credentials: Some(ROBOT), label }
    }

    /// The requests since `before`, all of which came from the region: nobody went around it.
    pub(super) fn log_since(&self, before: &RequestLog) -> Result<RequestLog> {
        let log = self.harbor.log().since(before);
        let strangers = log.filter(|request| request.remote != REGION_IP);
        ensure!(strangers.requests.is_empty(), "not from the region:\n{strangers}");
        Ok(log)
    }
}

/// On this machine the registry's name means a peer: only the address that the manager gives
/// leads the seed to the registry.
fn up_behind_sni_doors<'a>(stage: &'a Stage, harbor: &Harbor) -> Result<Region<'a>> {
    let mut region = Region::up_by_address(stage, harbor.ca(), NODES)?;
    region.open_sni_doors()?;
    stage.resolve_registry_to(region.peers().next().context("no peer")?.sni()?)?;
    region.wait_for_registry()?;
    Ok(region)
}

const NODES: usize = 3;
