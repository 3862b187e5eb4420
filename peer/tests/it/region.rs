//! A region: manager, scheduler, one seed, two peers, and the registry that they read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use flotilla_peer::{Peer, PeerConfig};
use flotilla_proto::wire::manager::{Endpoint, Registry as Upstream};
use tokio_util::sync::CancellationToken;

use crate::client::{Answer, Client};
use crate::cluster::{Cluster, REGION, within};
use crate::registry::{HOST, Registry};
use crate::script::Script;

pub(crate) struct Region {
    pub(crate) cluster: Cluster,
    pub(crate) registry: Registry,
    pub(crate) seed: Node,
    pub(crate) one: Node,
    pub(crate) two: Node,
}

/// A peer daemon that runs.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) pieces: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) client: Client,
    /// The door `sni`, where it is open.
    pub(crate) sni: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    life: CancellationToken,
}

impl Region {
    /// Configures one more registry, and waits until every node knows it.
    pub(crate) async fn add_registry(&self, host: &str, registry: &Registry) {
        self.add(host, registry, |_| {}).await;
    }

    /// As [`Self::add_registry`], with what `adjust` sets.
    pub(crate) async fn add(&self, host: &str, registry: &Registry, adjust: impl FnOnce(&mut Upstream)) {
        let endpoint = Endpoint { url: format!("http://{}", registry.address), ..Default::default() };
        let mut upstream = Upstream { host: host.into(), endpoints: vec![endpoint], ..Default::default() };
        adjust(&mut upstream);
        self.cluster.topology().set_registry(upstream).await.unwrap();
        let mut turn = tokio::time::interval(Duration::from_millis(20));
        for node in [&self.seed, &self.one, &self.two] {
            while node.client.get(&format!("/v2/none/manifests/v1?ns={host}")).await.error().0
                == "NAME_UNKNOWN"
            {
                turn.tick().await;
            }
        }
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A region whose peers, seed and all, are configured by `adjust` too.
    pub(crate) async fn start_with(adjust: impl Fn(&mut PeerConfig)) -> Self {
        let (mut cluster, registry) = found().await;
        cluster.start_scheduler().await;
        Self::people(cluster, registry, adjust).await
    }

    /// A region whose daemons find on their disks what `leave` has left there.
    pub(crate) async fn start_after(leave: impl AsyncFnOnce(&Cluster)) -> Self {
        let (mut cluster, registry) = found().await;
        leave(&cluster).await;
        cluster.start_scheduler().await;
        Self::people(cluster, registry, |_| {}).await
    }

    /// A region whose scheduler is the test. The seed attaches first, then one, then two.
    pub(crate) async fn start_scripted() -> (Self, Script) {
        let (mut cluster, registry) = found().await;
        let script = Script::start(&mut cluster).await;
        (Self::people(cluster, registry, |_| {}).await, script)
    }

    async fn people(mut cluster: Cluster, registry: Registry, adjust: impl Fn(&mut PeerConfig)) -> Self {
        let seed = start(&mut cluster, "seed-0", "seed", &adjust).await;
        let one = start(&mut cluster, "node-1", "peer", &adjust).await;
        let two = start(&mut cluster, "node-2", "peer", &adjust).await;
        Self { cluster, registry, seed, one, two }
    }
}

/// A manager that knows a registry.
pub(crate) async fn found() -> (Cluster, Registry) {
    let registry = Registry::start().await;
    let cluster = Cluster::start().await;
    let endpoint = Endpoint { url: format!("http://{}", registry.address), ..Default::default() };
    let upstream = Upstream { host: HOST.into(), endpoints: vec![endpoint], ..Default::default() };
    cluster.topology().set_registry(upstream).await.unwrap();
    (cluster, registry)
}

/// What a daemon of a region is configured with.
pub(crate) async fn configuration(cluster: &Cluster, name: &str, role: &str) -> PeerConfig {
    let mut config = PeerConfig {
        name: Some(name.parse().unwrap()),
        data_dir: cluster.daemon_dir(name),
        manager: cluster.joining(REGION, role).await,
        ..PeerConfig::default()
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    (config.door.listen, config.transport.listen, config.admin.listen) = (any, any, any);
    // What a registry is asked shall be what clients made the region ask.
    config.source.probe_interval = Duration::from_secs(3600);
    config
}

pub(crate) async fn start(
    cluster: &mut Cluster,
    name: &'static str,
    role: &str,
    adjust: &impl Fn(&mut PeerConfig),
) -> Node {
    let mut config = configuration(cluster, name, role).await;
    adjust(&mut config);
    let data_dir = config.data_dir.clone();
    let peer = Peer::start(config).await.unwrap();
    let client = Client { door: peer.door_address().unwrap(), credential: None };
    let node = Node {
        name,
        pieces: peer.piece_address(),
        data_dir,
        client,
        sni: peer.sni_address().unwrap(),
        admin: peer.admin_address().unwrap(),
        life: cluster.shutdown.child_token(),
    };
    let serve = peer.serve(node.life.clone());
    cluster.spawn(async move {
        let _ended = serve.await.unwrap();
    });
    within(node.ready()).await;
    node
}

impl Node {
    /// Ends the daemon; its ports fall silent.
    pub(crate) fn stop(&self) {
        self.life.cancel();
    }

    /// A page of the admin address.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        Client { door: self.admin, credential: None }.get(path).await
    }

    /// What its metrics count of pieces from that source.
    pub(crate) async fn piece_bytes(&self, source: &str) -> u64 {
        self.metric(&format!("flotilla_peer_piece_bytes_total{{source=\"{source}\"}}")).await
    }

    /// The least path MTU of its connections, in bytes.
    pub(crate) async fn path_mtu(&self) -> u64 {
        self.metric("flotilla_peer_path_mtu_bytes").await
    }

    /// How often a client met that bound.
    pub(crate) async fn bounds(&self, bound: &str) -> u64 {
        self.metric(&format!("flotilla_peer_door_bounds_total{{bound=\"{bound}\"}}")).await
    }

    /// Bytes of answers under way.
    pub(crate) async fn answer_bytes(&self) -> u64 {
        self.metric("flotilla_peer_answer_bytes").await
    }

    /// The value of a metric, by its name and labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = self.admin("/metrics").await.body;
        let text = String::from_utf8(metrics.to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().parse().unwrap()
    }

    /// Asks until the daemon says that it has its settings and its scheduler.
    async fn ready(&self) {
        let mut turn = tokio::time::interval(Duration::from_millis(20));
        while !self.admin("/readyz").await.status.is_success() {
            turn.tick().await;
        }
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.data_dir.join("ca-bundle.pem")
    }
}

/// Bytes that compress and repeat nowhere, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.into()
}

/// The path of a blob.
pub(crate) fn blob_path(repository: &str, blob: &Bytes) -> String {
    format!("/v2/{repository}/blobs/{}", flotilla_proto::Digest::of(blob))
}
