//! An enrolled peer that lies on purpose: about what it holds, where it is, how long things are and what they hash
//! to, and about others; that sends nothing, or something else, or slowly; and that asks for more than anybody.
//!
//! What it may not do is pretend to be somebody else: it has an identity of its own, as a node has that was broken into.

mod answers;
mod claim;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::rpc::{self, SchedulerClient};
use flotilla_proto::wire::scheduler::{Failure, FromPeer, Hello, ToPeer, Want, failure};
use flotilla_proto::{Digest, PROTOCOL, PeerId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use answers::Sizes;

pub use answers::Manner;
pub use claim::Claim;

/// The peer, attached to the scheduler. Dropped, it is gone.
pub struct Hostile {
    said: mpsc::Sender<FromPeer>,
    /// Whom the scheduler has named to it. Held for one operation.
    named: Arc<Mutex<Vec<String>>>,
    /// Of what it has announced.
    sizes: Sizes,
    /// Hears what it is told, and answers.
    _tasks: JoinSet<()>,
    /// Keeps its address from answering that nobody is there.
    _socket: Option<UdpSocket>,
}

impl Hostile {
    /// Attaches to a scheduler, and answers other peers in that manner at `listen`; port 0 is any.
    ///
    /// # Errors
    ///
    /// If the port is taken, or the scheduler does not answer within 20 s.
    pub async fn join(
        identity: &NodeIdentity,
        (scheduler, address): (&PeerId, SocketAddr),
        listen: SocketAddr,
        manner: Manner,
    ) -> Result<Self> {
        let socket = UdpSocket::bind(listen).with_context(|| format!("listen at {listen}"))?;
        let here = socket.local_addr()?;
        let mut tasks = JoinSet::new();
        let sizes = Sizes::default();
        let socket = if manner == Manner::Silent {
            Some(socket)
        } else {
            let endpoint = answers::endpoint(socket, identity)?;
            tasks.spawn(answers::serve(endpoint, manner, Arc::clone(&sizes)));
            None
        };
        let channel = rpc::channel(identity, address, scheduler);
        let (said, outgoing) = mpsc::channel(16);
        let hello = Hello { protocol: PROTOCOL, address: here.to_string(), zone: String::new() };
        said.send(FromPeer { hello: Some(hello), inventory_told: true, ..Default::default() }).await?;
        let mut client = SchedulerClient::new(channel);
        let attached = timeout(PATIENCE, client.attach(ReceiverStream::new(outgoing)))
            .await
            .context("the scheduler says nothing")?;
        let mut heard = attached.context("attach to the scheduler")?.into_inner();
        // The scheduler has taken in the first batch once it answers.
        let first = timeout(PATIENCE, heard.message()).await.context("the scheduler says nothing")??;
        let named = Arc::new(Mutex::new(Vec::new()));
        let names = Arc::clone(&named);
        note(&names, first.as_ref());
        tasks.spawn(async move {
            while let Ok(Some(message)) = heard.message().await {
                note(&names, Some(&message));
            }
        });
        Ok(Self { said, named, sizes, _tasks: tasks, _socket: socket })
    }

    /// Says that it holds what these claim.
    ///
    /// # Errors
    ///
    /// If the scheduler is gone.
    pub async fn announce(&self, claims: &[Claim]) -> Result<()> {
        let sizes = claims.iter().map(|claim| (claim.digest, claim.size));
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).extend(sizes);
        let announces = claims.iter().map(Claim::announcement).collect();
        self.say(FromPeer { announces, ..Default::default() }).await
    }

    /// Says anything.
    ///
    /// # Errors
    ///
    /// If the scheduler is gone.
    pub async fn say(&self, batch: FromPeer) -> Result<()> {
        self.said.send(batch).await.ok().context("the scheduler is gone")
    }

    /// Asks for so many blobs a second that nobody has, in batches, until the scheduler is gone.
    pub async fn flood(&self, wants_per_second: u32) {
        let mut turn = turns(Duration::from_millis(20));
        loop {
            turn.tick().await;
            let want = || {
                let digest = Digest::from_bytes(std::array::from_fn(|_| fastrand::u8(..)));
                Want {
                    digest: digest.into(),
                    size: fastrand::u64(1..1 << 34),
                    reader: true,
                    ..Default::default()
                }
            };
            let wants = (0..wants_per_second / 50).map(|_| want()).collect();
            if self.say(FromPeer { wants, ..Default::default() }).await.is_err() {
                return;
            }
        }
    }

    /// Says and takes back the same again and again, until the scheduler is gone: that it holds these, that it does
    /// not, that everybody it has heard of sent it wrong bytes of them.
    pub async fn replay(&self, claims: &[Claim]) {
        let mut turn = turns(Duration::from_millis(100));
        loop {
            turn.tick().await;
            let named = self.named.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let slander = |claim: &Claim| {
                let digest = claim.digest;
                named.iter().map(move |parent| Failure {
                    digest: digest.into(),
                    piece: fastrand::u32(0..8),
                    parent: parent.clone(),
                    reason: failure::Reason::Corrupt.into(),
                })
            };
            let batch = FromPeer {
                withdrawals: claims.iter().map(|claim| claim.digest.into()).collect(),
                failures: claims.iter().flat_map(slander).collect(),
                ..Default::default()
            };
            let again = FromPeer {
                announces: claims.iter().map(Claim::announcement).collect(),
                wants: claims.iter().map(Claim::want).collect(),
                ..Default::default()
            };
            if self.say(batch).await.is_err() || self.say(again).await.is_err() {
                return;
            }
        }
    }
}

fn turns(every: Duration) -> tokio::time::Interval {
    let mut turn = interval(every);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turn
}

fn note(named: &Mutex<Vec<String>>, message: Option<&ToPeer>) {
    let mut named = named.lock().unwrap_or_else(PoisonError::into_inner);
    for peer in message.into_iter().flat_map(|message| &message.peers) {
        if named.len() < MOST_NAMED && !named.contains(&peer.peer) {
            named.push(peer.peer.clone());
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
const MOST_NAMED: usize = 64;
