//! A scheduler that says what the test writes, and nothing else.

use std::time::Duration;

use flotilla_daemon::identity::ClientAuth;
use flotilla_daemon::{rpc, settings};
use flotilla_proto::PeerId;
use flotilla_proto::wire::scheduler::{FromPeer, ToPeer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Cluster, REGION, SCHEDULER, within};

/// The scheduler's side of every stream, in the order in which peers attach.
pub(crate) struct Script {
    attached: mpsc::Receiver<Attached>,
    stop: CancellationToken,
}

/// One peer's stream. Dropped, it ends.
pub(crate) struct Attached {
    pub(crate) id: PeerId,
    /// Where other peers reach it.
    pub(crate) address: String,
    to: mpsc::Sender<Result<ToPeer, Status>>,
    said: mpsc::Receiver<FromPeer>,
}

impl Script {
    pub(crate) async fn start(cluster: &mut Cluster) -> Self {
        let identity = cluster.enrol(SCHEDULER, REGION, "scheduler").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (_, watch) = settings::watch(identity.clone(), &cluster.daemon_dir(SCHEDULER), address).unwrap();
        cluster.spawn(async move { drop(watch.await) });
        let (sender, attached) = mpsc::channel(8);
        let service = rpc::SchedulerServer::new(Service(sender));
        let (routes, stop) = (Routes::new(service), cluster.shutdown.child_token());
        let serve = rpc::serve(listener, &identity, ClientAuth::Required, routes, stop.clone());
        cluster.spawn(async move { serve.await.unwrap() });
        Self { attached, stop }
    }

    /// The next peer that attaches.
    pub(crate) async fn next(&mut self) -> Attached {
        within(self.attached.recv()).await.unwrap()
    }

    /// Nobody attaches any more. The streams end when they are dropped.
    pub(crate) fn stop(self) {
        self.stop.cancel();
    }
}

impl Attached {
    pub(crate) async fn tell(&self, message: ToPeer) {
        self.to.send(Ok(message)).await.unwrap();
    }

    /// Hears what the peer says until it has said that.
    pub(crate) async fn until(&mut self, mut is_said: impl FnMut(&FromPeer) -> bool) {
        while !is_said(&within(self.said.recv()).await.unwrap()) {}
    }
}

struct Service(mpsc::Sender<Attached>);

#[tonic::async_trait]
impl rpc::Scheduler for Service {
    type AttachStream = ReceiverStream<Result<ToPeer, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromPeer>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let id = rpc::caller(&request)?.id;
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap()?.unwrap();
        let address = first.hello.unwrap().address;
        let (to, outgoing) = mpsc::channel(16);
        let (saying, said) = mpsc::channel(1024);
        self.0.send(Attached { id, address, to, said }).await.map_err(|_| Status::unavailable("the end"))?;
        tokio::spawn(async move {
            while let Ok(Some(batch)) = stream.message().await
                && saying.send(batch).await.is_ok()
            {}
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// For the first batch of a stream.
const PATIENCE: Duration = Duration::from_secs(10);
