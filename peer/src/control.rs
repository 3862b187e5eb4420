//! The stream to the region's scheduler: found in the settings, opened again when lost.

use std::time::Duration;

use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::rpc::{self, SchedulerClient};
use flotilla_daemon::settings::{DaemonAddress, Receiver};
use flotilla_proto::PROTOCOL;
use flotilla_proto::wire::scheduler::{FromPeer, Hello};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::swarm::{Event, Swarm};

/// Keeps a stream to a scheduler; never returns.
pub(crate) struct SchedulerLink {
    pub(crate) identity: NodeIdentity,
    pub(crate) settings: Receiver,
    /// Where other peers reach this one's piece port.
    pub(crate) address: String,
    pub(crate) zone: String,
    pub(crate) swarm: Swarm,
}

impl SchedulerLink {
    pub(crate) async fn run(mut self) {
        let mut pause = MIN_PAUSE;
        let mut attempt = 0;
        loop {
            let Some(scheduler) = self.scheduler(attempt).await else { continue };
            let reason = match self.attach(&scheduler).await {
                Ok((link, heard)) => {
                    tracing::info!(scheduler = %scheduler.id, address = %scheduler.address, "scheduler connected");
                    (pause, attempt) = (MIN_PAUSE, 0);
                    self.swarm.send(Event::LinkUp(link)).await;
                    let reason = self.listen(heard).await;
                    self.swarm.send(Event::LinkDown).await;
                    reason
                }
                Err(reason) => {
                    attempt += 1;
                    reason
                }
            };
            // News once; that it is still so is no news.
            if attempt <= 1 {
                tracing::warn!(scheduler = %scheduler.id, address = %scheduler.address, reason, "scheduler not connected");
            } else {
                tracing::debug!(scheduler = %scheduler.id, reason, "scheduler still not connected");
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The scheduler whose turn it is; `None` after a wait for settings that name one.
    async fn scheduler(&mut self, attempt: usize) -> Option<DaemonAddress> {
        let schedulers = self.settings.borrow_and_update().schedulers.clone();
        if schedulers.is_empty() {
            // The sender lives as long as the daemon.
            let _ = self.settings.changed().await;
            return None;
        }
        Some(schedulers[attempt % schedulers.len()].clone())
    }

    async fn attach(
        &self,
        scheduler: &DaemonAddress,
    ) -> Result<(mpsc::Sender<FromPeer>, Streaming<flotilla_proto::wire::scheduler::ToPeer>), String> {
        let channel = rpc::channel(&self.identity, scheduler.address, &scheduler.id);
        let mut client = SchedulerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let (link, waiting) = mpsc::channel::<FromPeer>(BATCHES_WAITING);
        let hello = Hello { protocol: PROTOCOL, address: self.address.clone(), zone: self.zone.clone() };
        let first = FromPeer { hello: Some(hello), ..Default::default() };
        let outgoing = futures_util::stream::iter([first]).chain(ReceiverStream::new(waiting));
        let attached = tokio::time::timeout(rpc::CALL_TIMEOUT, client.attach(outgoing)).await;
        let attached = attached.map_err(|_| "no answer in time".to_owned())?;
        let heard = attached.map_err(|status| rpc::reason(&status))?;
        Ok((link, heard.into_inner()))
    }

    /// Passes on what the scheduler says; returns why it ended.
    async fn listen(&self, mut heard: Streaming<flotilla_proto::wire::scheduler::ToPeer>) -> String {
        loop {
            match heard.message().await {
                Ok(Some(message)) => self.swarm.send(Event::Heard(Box::new(message))).await,
                Ok(None) => return "it ended the stream".to_owned(),
                Err(status) => return rpc::reason(&status),
            }
        }
    }
}

/// Batches that may wait for the scheduler to read them.
const BATCHES_WAITING: usize = 256;

/// A batch names at most what one flush gathered: some thousand pieces of 100 bytes.
const MAX_MESSAGE: usize = 16 << 20;

const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);
