//! An enrolled peer that lies on purpose: about what it holds, where it is, and what it sends.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_daemon::identity::{ClientAuth, NodeIdentity};
use flotilla_daemon::rpc::{self, SchedulerClient};
use flotilla_daemon::settings;
use flotilla_proto::wire::join_hashes;
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Request, Response, request};
use flotilla_proto::wire::scheduler::{Announce, FromPeer, Hello, Run};
use flotilla_proto::{ALPN_PIECES, Digest, Layout, PROTOCOL, PieceHash, frame};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::{Cluster, REGION, SCHEDULER, within};

/// How a hostile peer answers when it is asked for a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Nothing answers at its address.
    Silent,
    /// It shakes hands, and says nothing more.
    Mute,
    /// It says that the piece follows, and sends a byte of it each half second.
    Drips,
    /// It sends other bytes than it announced.
    Garbage,
    /// It has too much to do.
    Busy,
    /// It ends each stream at once.
    Cuts,
}

/// The peer, attached to the scheduler. Dropped, it is gone.
pub(crate) struct Hostile {
    said: mpsc::Sender<FromPeer>,
    /// Hears what it is told, and answers.
    _tasks: JoinSet<()>,
    /// Keeps its address from answering that nobody is there.
    _socket: Option<UdpSocket>,
}

impl Hostile {
    pub(crate) async fn join(cluster: &mut Cluster, name: &str, manner: Manner) -> Self {
        let identity = cluster.enrol(name, REGION, "peer").await;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let socket = if manner == Manner::Silent {
            Some(socket)
        } else {
            tasks.spawn(serve(endpoint(socket, &identity), manner));
            None
        };
        let scheduler = scheduler(cluster, name, &identity).await;
        let channel = rpc::channel(&identity, scheduler, &SCHEDULER.parse().unwrap());
        let (said, outgoing) = mpsc::channel(16);
        let hello = Hello { protocol: PROTOCOL, address: address.to_string(), zone: String::new() };
        let first = FromPeer { hello: Some(hello), inventory_told: true, ..Default::default() };
        said.send(first).await.unwrap();
        let attached = within(SchedulerClient::new(channel).attach(ReceiverStream::new(outgoing))).await;
        let mut heard = attached.unwrap().into_inner();
        // The scheduler has taken in the first batch once it answers.
        within(heard.message()).await.unwrap();
        tasks.spawn(async move { while let Ok(Some(_)) = heard.message().await {} });
        Self { said, _tasks: tasks, _socket: socket }
    }

    /// Says that it holds the first pieces of a blob.
    pub(crate) async fn announce(&self, blob: &Bytes, size: u64, pieces: u32) {
        let layout = Layout::of(size).unwrap();
        let within = |offset: u64| usize::try_from(offset).unwrap().min(blob.len());
        let hash = |piece| {
            let range = layout.piece_range(piece);
            PieceHash::of(&blob[within(range.start)..within(range.end)])
        };
        let hashes: Vec<PieceHash> = (0..pieces).map(hash).collect();
        let announce = Announce {
            digest: Digest::of(blob).into(),
            size,
            runs: vec![Run { first: 0, count: pieces }],
            hashes: join_hashes(&hashes),
        };
        self.say(FromPeer { announces: vec![announce], ..Default::default() }).await;
    }

    pub(crate) async fn say(&self, batch: FromPeer) {
        self.said.send(batch).await.unwrap();
    }
}

/// Where the region's scheduler is.
async fn scheduler(cluster: &mut Cluster, name: &str, identity: &NodeIdentity) -> SocketAddr {
    let dir = cluster.daemon_dir(name);
    let (mut settings, watch) = settings::watch(identity.clone(), &dir, "127.0.0.1:9".into()).unwrap();
    cluster.spawn(async move { drop(watch.await) });
    let known = within(settings.wait_for(|settings| !settings.schedulers.is_empty())).await;
    known.unwrap().schedulers[0].address
}

fn endpoint(socket: UdpSocket, identity: &NodeIdentity) -> Endpoint {
    let tls = identity.server_config(&[ALPN_PIECES], ClientAuth::Required);
    let tls = QuicServerConfig::try_from(tls).unwrap();
    let server = ServerConfig::with_crypto(Arc::new(tls));
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(quinn::EndpointConfig::default(), Some(server), socket, runtime).unwrap()
}

async fn serve(endpoint: Endpoint, manner: Manner) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        connections.spawn(async move {
            if let Ok(connection) = incoming.await {
                answer_all(connection, manner).await;
            }
        });
    }
}

async fn answer_all(connection: Connection, manner: Manner) {
    let mut answers = JoinSet::new();
    while let Ok((send, receive)) = connection.accept_bi().await {
        answers.spawn(answer(send, receive, manner));
    }
}

/// `None` once the other side is gone.
async fn answer(mut send: SendStream, mut receive: RecvStream, manner: Manner) -> Option<()> {
    let mut ahead = BytesMut::new();
    let request: Request = loop {
        if let Some(request) = frame::decode(&mut ahead).ok()? {
            break request;
        }
        ahead.extend_from_slice(&receive.read_chunk(4096, true).await.ok()??.bytes);
    };
    let status = if manner == Manner::Busy { Status::Busy } else { Status::Ok };
    let mut header = Response { status: status.into(), ..Default::default() };
    if let Some(request::Kind::Take(take)) = &request.kind {
        header.piece = take.lacking.first()?.first;
        header.hash = Bytes::from_static(&[7; 32]);
    }
    match manner {
        Manner::Silent | Manner::Mute => std::future::pending().await,
        Manner::Cuts => {
            let _ = send.reset(0_u32.into());
        }
        Manner::Busy => send.write_all(&frame::encode(&header)).await.ok()?,
        Manner::Garbage => {
            send.write_all(&frame::encode(&header)).await.ok()?;
            send.write_all(&vec![7; 4 << 20]).await.ok()?;
        }
        Manner::Drips => {
            send.write_all(&frame::encode(&header)).await.ok()?;
            let mut turn = tokio::time::interval(Duration::from_millis(500));
            loop {
                turn.tick().await;
                send.write_all(&[7]).await.ok()?;
            }
        }
    }
    let _ = send.finish();
    Some(())
}
