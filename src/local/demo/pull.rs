//! All clients of all peers, started together and watched until each is done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::progress::{Display, StallWatch};
use crate::http::HttpClient;
use crate::oci_client::{
    ClientCredentials, ClientPlan, Door, ImageReference, NodeProgress, PullError, PulledImage, pull,
};

/// Who pulls what.
pub(crate) struct FleetPull {
    /// Shared by all clients.
    pub(crate) http: HttpClient,
    /// The peers, by name and front door.
    pub(crate) nodes: Vec<NodeDoor>,
    /// Clients of each peer.
    pub(crate) clients_per_node: u16,
    /// What to pull.
    pub(crate) image: ImageReference,
    /// Whom the registry knows.
    pub(crate) credentials: Option<ClientCredentials>,
}

/// A peer as its clients see it.
#[derive(Debug, Clone)]
pub(crate) struct NodeDoor {
    /// Its name.
    pub(crate) name: String,
    /// `http://host:port`.
    pub(crate) door: String,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Pulled {
    /// What the first client got; `None` if all failed.
    pub(crate) image: Option<PulledImage>,
    /// For each peer, its name and the time until its last client was done.
    pub(crate) seconds_by_node: Vec<(String, f64)>,
    /// Until the last client was done.
    pub(crate) seconds: f64,
    /// One line for each client that failed.
    pub(crate) failures: Vec<String>,
}

impl FleetPull {
    /// Starts every client and waits for all.
    pub(crate) async fn run(self, display: &mut Display) -> Pulled {
        let progress: Vec<_> = self.nodes.iter().map(|_| Arc::new(NodeProgress::default())).collect();
        display.begin(self.nodes.iter().map(|node| &*node.name));
        let mut clients = self.start(&progress);
        let started = Instant::now();
        let mut outcome = Outcome::new(&self, started);
        let mut stall = StallWatch::new(started);
        let mut ticks = tokio::time::interval(TICK);
        while outcome.running > 0 {
            tokio::select! {
                Some(done) = clients.join_next() => {
                    let done = done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                    outcome.take(done, display);
                }
                _ = ticks.tick() => {
                    display.show(&progress);
                    let (received, expected) = total(&progress);
                    if let Some(message) = stall.observe(Instant::now(), received) {
                        display.warn(&message);
                    }
                    if started.elapsed() > deadline(expected) {
                        outcome.give_up(deadline(expected), received);
                        break;
                    }
                }
            }
        }
        clients.shutdown().await;
        display.show(&progress);
        display.end();
        outcome.pulled
    }

    fn start(&self, progress: &[Arc<NodeProgress>]) -> JoinSet<Done> {
        let count = self.nodes.len() * usize::from(self.clients_per_node);
        let together = Arc::new(Barrier::new(count));
        let credentials = self.credentials.clone().map(Arc::new);
        let mut clients = JoinSet::new();
        for (node, (NodeDoor { door, .. }, progress)) in self.nodes.iter().zip(progress).enumerate() {
            for client in 0..self.clients_per_node {
                let plan = ClientPlan {
                    http: self.http.clone(),
                    door: Door::Mirror(door.clone()),
                    image: self.image.clone(),
                    credentials: credentials.clone(),
                    progress: Arc::clone(progress),
                };
                let together = Arc::clone(&together);
                clients.spawn(async move {
                    together.wait().await;
                    Done { node, client, result: pull(plan).await }
                });
            }
        }
        clients
    }
}

/// A client's end.
struct Done {
    node: usize,
    client: u16,
    result: Result<PulledImage, PullError>,
}

/// What is known while clients still run.
struct Outcome {
    started: Instant,
    running: usize,
    running_by_node: Vec<u16>,
    pulled: Pulled,
}

impl Outcome {
    fn new(pull: &FleetPull, started: Instant) -> Self {
        let FleetPull { nodes, clients_per_node, .. } = pull;
        Self {
            started,
            running: nodes.len() * usize::from(*clients_per_node),
            running_by_node: vec![*clients_per_node; nodes.len()],
            pulled: Pulled {
                image: None,
                seconds_by_node: nodes.iter().map(|node| (node.name.clone(), 0.0)).collect(),
                seconds: 0.0,
                failures: Vec::new(),
            },
        }
    }

    fn take(&mut self, Done { node, client, result }: Done, display: &Display) {
        let seconds = self.started.elapsed().as_secs_f64();
        let Pulled { image: first, seconds_by_node, seconds: until_last, failures } = &mut self.pulled;
        let (name, until_nodes_last) = &mut seconds_by_node[node];
        (*until_last, *until_nodes_last) = (seconds, seconds);
        self.running -= 1;
        self.running_by_node[node] -= 1;
        if self.running_by_node[node] == 0 {
            display.say_in_lines(&format!("{name}: all clients are done after {seconds:.2} s"));
        }
        match (result, &first) {
            (Err(error), _) => failures.push(format!("{name} client {client}: {error}")),
            (Ok(image), None) => *first = Some(image),
            (Ok(image), Some(first)) if image != *first => {
                let (this, other) = (image.manifest, first.manifest);
                failures
                    .push(format!("{name} client {client}: got the manifest {this}, another got {other}"));
            }
            (Ok(_), Some(_)) => {}
        }
    }

    fn give_up(&mut self, limit: Duration, received: u64) {
        let Pulled { seconds_by_node, seconds, failures, .. } = &mut self.pulled;
        *seconds = self.started.elapsed().as_secs_f64();
        let running =
            seconds_by_node.iter_mut().zip(&self.running_by_node).filter(|(_, running)| **running > 0);
        for ((name, until_last), running) in running {
            *until_last = *seconds;
            let (limit, received) = (limit.as_secs(), bytesize::ByteSize(received));
            failures.push(format!(
                "{name}: {running} clients were not done after {limit} s; all clients together had {received}"
            ));
        }
    }
}

fn total(progress: &[Arc<NodeProgress>]) -> (u64, u64) {
    let bytes = progress.iter().map(|node| node.bytes());
    bytes.fold((0, 0), |sum, node| (sum.0 + node.0, sum.1 + node.1))
}

/// Five minutes, and a second for each MiB that some client is to get.
fn deadline(expected: u64) -> Duration {
    LEAST_DEADLINE + Duration::from_secs(expected / SLOWEST_BYTES_PER_SECOND)
}

/// Even for nothing.
const LEAST_DEADLINE: Duration = Duration::from_secs(300);

/// All clients of this machine together are never so slow while anything works.
const SLOWEST_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// Between two looks at the progress.
const TICK: Duration = Duration::from_millis(100);
