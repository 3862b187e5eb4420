//! Peers' streams: who may attach, and the pumps between a stream and the driver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_daemon::rpc;
use flotilla_proto::wire::scheduler::{FromPeer, Hello, ToPeer};
use flotilla_proto::{Identity, PROTOCOL, RegionName, Role};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::driver::{Attachment, Event, OUTBOX_BATCHES};
use crate::toll::Tolls;

/// The scheduler's gRPC service.
pub(crate) struct Link {
    region: RegionName,
    events: mpsc::Sender<Event>,
    tolls: Arc<Tolls>,
}

impl Link {
    pub(crate) fn new(region: RegionName, events: mpsc::Sender<Event>) -> Self {
        Self { region, events, tolls: Arc::default() }
    }

    /// Peers and seeds of this region, and nobody else.
    fn admit<T>(&self, request: &Request<T>) -> Result<Identity, Status> {
        let caller = rpc::require(request, &[Role::Peer, Role::Seed])?;
        if caller.region.as_ref() != Some(&self.region) {
            let message = format!("{} is not of the region {}", caller.id, self.region);
            return Err(Status::permission_denied(message));
        }
        Ok(caller)
    }
}

#[tonic::async_trait]
impl rpc::Scheduler for Link {
    type AttachStream = ReceiverStream<Result<ToPeer, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromPeer>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = self.admit(&request)?;
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(HELLO_PATIENCE, stream.message()).await;
        let first =
            first.map_err(|_| Status::deadline_exceeded("the first batch did not come in time"))??;
        let mut first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let hello =
            first.hello.take().ok_or_else(|| Status::invalid_argument("the first batch says hello"))?;
        check_hello(&hello)?;
        sleep_until(self.tolls.opens_at(Instant::now(), &caller.id).into()).await;
        let (outbox, inbox) = mpsc::channel(OUTBOX_BATCHES);
        let (key, answered) = oneshot::channel();
        let attachment = Attachment {
            id: caller.id.clone(),
            seed: caller.role == Role::Seed,
            zone: hello.zone,
            address: hello.address,
            outbox,
            key,
        };
        let stopping = |_| Status::unavailable("the scheduler is stopping");
        self.events.send(Event::Attached(attachment)).await.map_err(|_| stopping(()))?;
        let key = answered.await.map_err(|_| stopping(()))?;
        let (events, tolls) = (self.events.clone(), Arc::clone(&self.tolls));
        tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(batch) = next {
                let may_go_on = tolls.pay(Instant::now(), &caller.id, &batch);
                if events.send(Event::Said(key, Box::new(batch))).await.is_err() {
                    return;
                }
                sleep_until(may_go_on.into()).await;
                next = stream.message().await.unwrap_or_else(|status| {
                    tracing::info!(peer = %caller.id, reason = rpc::reason(&status), "a peer's stream broke off");
                    None
                });
            }
            // The driver may be gone already.
            let _ = events.send(Event::Detached(key)).await;
        });
        Ok(Response::new(ReceiverStream::new(inbox)))
    }
}

fn check_hello(hello: &Hello) -> Result<(), Status> {
    if hello.protocol != PROTOCOL {
        let message = format!("this scheduler speaks protocol {PROTOCOL}, the peer {}", hello.protocol);
        return Err(Status::failed_precondition(message));
    }
    if hello.address.parse::<SocketAddr>().is_err() {
        return Err(Status::invalid_argument(format!("`{}` is not an ip:port", hello.address)));
    }
    if hello.zone.len() > MAX_ZONE_LEN {
        return Err(Status::invalid_argument("a zone's name is longer than 63 characters"));
    }
    Ok(())
}

/// Bytes of one batch. A peer's first names all it holds, up to 65 536 blobs.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// A peer says hello as it calls.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// As long as a DNS label, so that it fits a metric label.
const MAX_ZONE_LEN: usize = 63;
