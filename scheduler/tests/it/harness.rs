//! A region with its scheduler, and peers that say what a test makes them say.

use std::net::SocketAddr;

use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::rpc::{self, SchedulerClient};
use flotilla_daemon::settings;
use flotilla_proto::PROTOCOL;
use flotilla_proto::wire::scheduler::{FromPeer, Hello, ToPeer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::cluster::{Cluster, REGION, SCHEDULER, within};

/// A region whose scheduler listens.
pub(crate) struct Region {
    pub(crate) cluster: Cluster,
    pub(crate) scheduler: SocketAddr,
}

impl Region {
    pub(crate) async fn start() -> Self {
        let mut cluster = Cluster::start().await;
        cluster.start_scheduler().await;
        let observer = cluster.enrol("observer", REGION, "peer").await;
        let dir = cluster.daemon_dir("observer");
        let (mut settings, watch) = settings::watch(observer, &dir, "127.0.0.1:9".into()).unwrap();
        cluster.spawn(async move { drop(watch.await) });
        let known = within(settings.wait_for(|settings| !settings.schedulers.is_empty())).await;
        let scheduler = known.unwrap().schedulers[0].address;
        Self { cluster, scheduler }
    }

    /// A peer or seed of the region, attached.
    pub(crate) async fn attach(&self, name: &str, role: &str) -> Attached {
        let identity = self.cluster.enrol(name, REGION, role).await;
        attach(self.scheduler, &identity, hello()).await.unwrap()
    }
}

/// What an honest peer begins with.
pub(crate) fn hello() -> FromPeer {
    let hello = Hello { protocol: PROTOCOL, address: "127.0.0.1:9".into(), zone: String::new() };
    FromPeer { hello: Some(hello), ..Default::default() }
}

/// Attaches with `first` as the first batch.
pub(crate) async fn attach(
    scheduler: SocketAddr,
    identity: &NodeIdentity,
    first: FromPeer,
) -> Result<Attached, Status> {
    let channel = rpc::channel(identity, scheduler, &SCHEDULER.parse().unwrap());
    let (said, outgoing) = mpsc::channel(16);
    said.send(first).await.unwrap();
    let attached = within(SchedulerClient::new(channel).attach(ReceiverStream::new(outgoing))).await?;
    Ok(Attached { said, heard: attached.into_inner() })
}

/// A peer's stream.
pub(crate) struct Attached {
    said: mpsc::Sender<FromPeer>,
    heard: Streaming<ToPeer>,
}

impl Attached {
    pub(crate) async fn say(&self, batch: FromPeer) {
        self.said.send(batch).await.unwrap();
    }

    /// The first thing heard that `picked` finds.
    pub(crate) async fn hear<T>(&mut self, picked: impl Fn(ToPeer) -> Option<T>) -> T {
        loop {
            let batch = within(self.heard.message()).await.unwrap().expect("the stream goes on");
            if let Some(found) = picked(batch) {
                return found;
            }
        }
    }

    /// How the stream ends, whatever is said before.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        while within(self.heard.message()).await?.is_some() {}
        Ok(())
    }
}
