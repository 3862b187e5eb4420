//! A peer's own life: starting while something is missing, being removed, coming back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_peer::{Peer, PeerConfig};
use flotilla_proto::JoinTokenText;
use flotilla_proto::wire::manager::{CreateTokenRequest, Empty, JoinToken};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, REGION, within};
use crate::region;

#[tokio::test]
async fn a_peer_whose_manager_is_away_lives_says_so_and_joins_when_it_comes() {
    let cluster = Cluster::start().await;
    let token = token(&cluster).await;
    let real: SocketAddr = token.token().manager.strip_prefix("https://").unwrap().parse().unwrap();
    let address = own_address().await;
    let away = JoinToken { manager: format!("https://{address}"), ..token.token().clone() };
    let peer = Running::start(&cluster, "late", &JoinTokenText::from(away)).await;

    let missing = within(peer.missing("identity")).await;
    assert!(missing.starts_with(&format!("enrol with the manager at https://{address}: ")), "{missing}");
    assert_eq!(peer.admin("/healthz").await.unwrap().0, 200);
    assert_eq!(peer.admin("/status").await.unwrap().0, 503);
    TcpStream::connect(peer.door).await.unwrap_err();

    let gate = TcpListener::bind(address).await.unwrap();
    let _gate = AbortOnDrop(tokio::spawn(async move {
        loop {
            let (mut near, _) = gate.accept().await.unwrap();
            let mut far = TcpStream::connect(real).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    }));
    within(peer.serves()).await;
    peer.stop().await;
}

#[tokio::test]
async fn a_seed_that_was_killed_and_started_again_is_asked_at_once() {
    let (mut cluster, registry) = region::found().await;
    cluster.start_scheduler().await;
    let mut config = region::configuration(&cluster, "seed-0", "seed").await;
    config.transport.listen = own_address().await;
    let wire = Wire::to(config.transport.listen).await;
    config.transport.advertise = Some(wire.address);
    let seed = Mortal::start(config.clone()).await;
    let node = region::start(&mut cluster, "node-1", "peer", &|_| {}).await;
    registry.push("app", "before", &[]);
    assert_eq!(within(node.client.mirror("/v2/app/manifests/before")).await.status, 200);

    // A process that is killed says no goodbye.
    wire.cut.store(true, Ordering::Relaxed);
    seed.kill().await;
    wire.cut.store(false, Ordering::Relaxed);
    let again = Mortal::start(config).await;
    registry.push("app", "after", &[]);
    // Over the connection that stood, of which the seed of now knows nothing.
    let asked = node.client.mirror("/v2/app/manifests/after");
    let answer = tokio::time::timeout(IDLE_TIMEOUT / 2, asked).await.expect("told, not found out by silence");
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    again.kill().await;
}

/// A daemon with a runtime of its own, which can end at any point.
struct Mortal(tokio::runtime::Runtime);

impl Mortal {
    /// Returns once it serves.
    async fn start(config: PeerConfig) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let peer = Peer::start(config).await.unwrap();
            tell.send(()).unwrap();
            let _ended = peer.serve(CancellationToken::new()).await.unwrap();
        });
        within(told).await.unwrap();
        Self(runtime)
    }

    /// Returns once nothing of it runs.
    async fn kill(self) {
        let ended = move || self.0.shutdown_timeout(Duration::from_secs(30));
        tokio::task::spawn_blocking(ended).await.unwrap();
    }
}

/// The way of datagrams between one node and another, which can be cut.
struct Wire {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    _carrying: AbortOnDrop,
}

impl Wire {
    async fn to(far: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, cut) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let is_cut = Arc::clone(&cut);
        let carrying = tokio::spawn(async move {
            let (mut near, mut datagram) = (None, [0; 1 << 16]);
            loop {
                // That nobody listens there just now is told here, and no matter.
                let Ok((len, from)) = socket.recv_from(&mut datagram).await else { continue };
                let to = if from == far { near } else { Some(far) };
                if from != far {
                    near = Some(from);
                }
                if let Some(to) = to.filter(|_| !is_cut.load(Ordering::Relaxed)) {
                    let _ = socket.send_to(&datagram[..len], to).await;
                }
            }
        });
        Self { address, cut, _carrying: AbortOnDrop(carrying) }
    }
}

#[tokio::test]
async fn a_peer_that_waits_ends_at_once_when_it_is_told_to() {
    let cluster = Cluster::start().await;
    let nowhere = own_address().await;
    let away = JoinToken { manager: format!("https://{nowhere}"), ..token(&cluster).await.token().clone() };
    let peer = Running::start(&cluster, "late", &JoinTokenText::from(away)).await;
    within(peer.missing("identity")).await;
    peer.stop().await;

    let token = token(&cluster).await;
    let elsewhere = |config: &mut PeerConfig| config.door.listen = "192.0.2.1:4001".parse().unwrap();
    let peer = Running::start_with(&cluster, "late", &token, elsewhere).await;
    let missing = within(peer.missing("door")).await;
    assert!(missing.starts_with("door.listen 192.0.2.1:4001: this machine does not have"), "{missing}");
    peer.stop().await;
}

#[tokio::test]
async fn a_peer_without_its_token_file_waits_for_it() {
    let cluster = Cluster::start().await;
    let token = token(&cluster).await;
    let peer = Running::start(&cluster, "early", &"").await;
    // A token that is there and is none is a mistake, and told at once.
    assert!(peer.ended().await.unwrap_err().to_string().contains("a join token starts with flt1_"));

    let absent = |config: &mut PeerConfig| {
        std::fs::remove_file(config.manager.join_token_file.as_ref().unwrap()).unwrap();
    };
    let peer = Running::start_with(&cluster, "early", &token, absent).await;
    let missing = within(peer.missing("identity")).await;
    assert!(missing.starts_with("read manager.join_token_file "), "{missing}");
    std::fs::write(&peer.token_file, token.to_string()).unwrap();
    within(peer.serves()).await;
    peer.stop().await;
}

#[tokio::test]
async fn a_removed_peer_stops_serving_until_another_token_enrols_it() {
    let cluster = Cluster::start().await;
    // Good for any number of uses, and put in place again: the removal must hold all the same.
    let first = unlimited_token(&cluster).await;
    let peer = Running::start(&cluster, "node-1", &first).await;
    within(peer.serves()).await;
    assert!(!peer.token_file.exists(), "it is used");
    std::fs::write(&peer.token_file, &first).unwrap();

    cluster.remove("node-1").await;
    let missing = within(peer.missing("identity")).await;
    assert!(missing.contains("removed from the topology"), "{missing}");
    assert!(missing.contains(peer.token_file.to_str().unwrap()), "{missing}");
    TcpStream::connect(peer.door).await.unwrap_err();
    let listed = cluster.topology().list_daemons(Empty {}).await.unwrap().into_inner().daemons;
    assert!(listed.is_empty(), "{listed:?}");

    // A restart does not bring it back either.
    let config = peer.config.clone();
    peer.stop().await;
    let peer = Running::run(config).await;
    within(peer.missing("identity")).await;

    std::fs::write(&peer.token_file, token(&cluster).await.to_string()).unwrap();
    within(peer.serves()).await;
    let listed = cluster.topology().list_daemons(Empty {}).await.unwrap().into_inner().daemons;
    assert_eq!(listed[0].id, "node-1");
    peer.stop().await;
}

/// A peer as the executable runs it.
struct Running {
    config: PeerConfig,
    token_file: PathBuf,
    door: SocketAddr,
    shutdown: CancellationToken,
    run: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(cluster: &Cluster, name: &str, token: &impl std::fmt::Display) -> Self {
        Self::start_with(cluster, name, token, |_| {}).await
    }

    async fn start_with(
        cluster: &Cluster,
        name: &str,
        token: &impl std::fmt::Display,
        adjust: impl FnOnce(&mut PeerConfig),
    ) -> Self {
        let data_dir = cluster.daemon_dir(name);
        std::fs::create_dir_all(&data_dir).unwrap();
        let token_file = data_dir.join("join-token");
        std::fs::write(&token_file, token.to_string()).unwrap();
        let mut config = PeerConfig { name: Some(name.parse().unwrap()), data_dir, ..PeerConfig::default() };
        config.manager.join_token_file = Some(token_file);
        let own = own_address().await;
        config.door.listen = own;
        config.admin.listen = SocketAddr::new(own.ip(), own_port(own).await);
        config.transport.listen = UdpSocket::bind((own.ip(), 0)).await.unwrap().local_addr().unwrap();
        adjust(&mut config);
        Self::run(config).await
    }

    async fn run(config: PeerConfig) -> Self {
        let shutdown = CancellationToken::new();
        let run = tokio::spawn(flotilla_peer::run(config.clone(), shutdown.clone()));
        let token_file = config.manager.join_token_file.clone().unwrap();
        Self { token_file, door: config.door.listen, config, shutdown, run }
    }

    /// `None` while the peer is between two lives, at any point of the exchange.
    async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.config.admin.listen).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// What the peer says is missing under this name, once it does.
    async fn missing(&self, condition: &str) -> String {
        let mut turn = tokio::time::interval(LOOK_AGAIN);
        loop {
            turn.tick().await;
            if let Some((503, text)) = self.admin("/readyz").await {
                let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                if let Some(reason) = answer["missing"][condition].as_str() {
                    return reason.to_owned();
                }
            }
        }
    }

    /// Returns when clients are let in.
    async fn serves(&self) {
        let mut turn = tokio::time::interval(LOOK_AGAIN);
        while TcpStream::connect(self.door).await.is_err() {
            turn.tick().await;
        }
    }

    async fn ended(self) -> anyhow::Result<()> {
        within(self.run).await.unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.run).await.unwrap().unwrap().unwrap();
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn token(cluster: &Cluster) -> JoinTokenText {
    let joining = cluster.joining(REGION, "peer").await;
    joining.join_token().unwrap().unwrap()
}

async fn unlimited_token(cluster: &Cluster) -> String {
    let (region, role) = (REGION.into(), "peer".into());
    let request = CreateTokenRequest { region, role, lifetime_seconds: 600, uses: 0, unlimited: true };
    cluster.topology().create_token(request).await.unwrap().into_inner().token
}

/// A port on a loopback address that no other test has: it may be freed and taken again.
async fn own_address() -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
    SocketAddr::new(ip.into(), own_port((ip, 0).into()).await)
}

async fn own_port(near: SocketAddr) -> u16 {
    let listener = TcpListener::bind((near.ip(), 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// After which a silent connection between peers is given up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(6);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
