//! An enrolled peer that lies on purpose, in a region.

use std::net::SocketAddr;

use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::settings;
use flotilla_e2e_hostile::{Hostile, Manner};

use crate::cluster::{Cluster, REGION, SCHEDULER, within};

/// Enrols it, and attaches it to the scheduler.
pub(crate) async fn join(cluster: &mut Cluster, name: &str, manner: Manner) -> Hostile {
    let identity = cluster.enrol(name, REGION, "peer").await;
    let scheduler = scheduler(cluster, name, &identity).await;
    let (known_as, listen) = (SCHEDULER.parse().unwrap(), "127.0.0.1:0".parse().unwrap());
    Hostile::join(&identity, (&known_as, scheduler), listen, manner).await.unwrap()
}

/// Where the region's scheduler is.
async fn scheduler(cluster: &mut Cluster, name: &str, identity: &NodeIdentity) -> SocketAddr {
    let dir = cluster.daemon_dir(name);
    let (mut settings, watch) = settings::watch(identity.clone(), &dir, "127.0.0.1:9".into()).unwrap();
    cluster.spawn(async move { drop(watch.await) });
    let known = within(settings.wait_for(|settings| !settings.schedulers.is_empty())).await;
    known.unwrap().schedulers[0].address
}
