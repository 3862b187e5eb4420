//! Serving a daemon's pages to a few clients at a time, none of which keeps another out.
//!
//! An operator who looks, a Prometheus, a load balancer's check: [`CLIENTS`] at a time are plenty. Where there are so many,
//! the owner with the most of them loses the one that has been idle longest ([`Crowd`]); a client that sends no
//! request, or takes no answer, is let go.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::crowd::{Crowd, Room, Seat};
use crate::owner::Owners;
use crate::watched::Watched;

/// Connections that were ended to keep the pages within their bounds; clones count into the same.
#[derive(Debug, Clone, Default)]
pub(super) struct LetGo(Family<Labels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reason {
    /// There is no room, and its owner has as many as anybody.
    Full,
    /// It made room for another.
    MadeRoom,
    /// It took no byte of an answer for too long.
    Stalled,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Full => "full",
            Self::MadeRoom => "made_room",
            Self::Stalled => "stalled",
        };
        label.encode(encoder)
    }
}

impl LetGo {
    pub(super) fn register(&self, metrics: &mut Registry) {
        let help = "Connections to the admin address and to metrics.listen that were let go";
        metrics.register("flotilla_admin_let_go", help, self.0.clone());
        for reason in [Reason::Full, Reason::MadeRoom, Reason::Stalled] {
            let _at_zero = self.0.get_or_create(&Labels { reason });
        }
    }

    fn count(&self, reason: Reason) {
        self.0.get_or_create(&Labels { reason }).inc();
    }
}

/// Serves `router` until `shutdown`, then gives the answers that are under way a moment to end.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    let_go: LetGo,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let room = Room { many: CLIENTS, most: CLIENTS, patience: Duration::ZERO };
    let (crowd, owners) = (Crowd::with_room(room), Owners::open());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: trying at once would only spin.
                tracing::warn!(%error, "accept a client of the admin address");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(here) = stream.local_addr() else { continue };
        let Some(seat) = crowd.try_enter(owners.of(client, here)) else {
            let_go.count(Reason::Full);
            continue;
        };
        connections.spawn(connection(stream, seat, router.clone(), let_go.clone(), shutdown.clone()));
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Who still takes an answer then is cut.
    let _ = timeout(END_TIME, ended).await;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    seat: Seat,
    router: Router,
    let_go: LetGo,
    shutdown: CancellationToken,
) {
    let stream = Watched::new(stream, TAKE_TIME);
    let (movement, turned_away) = (stream.movement(), seat.turned_away());
    let service = service_fn(|request| {
        let (mut router, work) = (router.clone(), seat.work());
        async move {
            let answer = router.call(request).await;
            drop(work);
            Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // A client that goes away is no error.
        _ended = served.as_mut() => {}
        () = turned_away => let_go.count(Reason::MadeRoom),
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            let _ended = served.await;
        }
    }
    if movement.is_overdue() {
        let_go.count(Reason::Stalled);
    }
}

/// At each of the two addresses. One more takes the place of an idle one.
pub(super) const CLIENTS: usize = 64;

/// For a request's head, and for a kept-alive connection between two.
const HEAD_TIME: Duration = Duration::from_secs(60);

/// For some of an answer.
const TAKE_TIME: Duration = Duration::from_secs(30);

const MAX_HEAD: usize = 16 << 10;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const END_TIME: Duration = Duration::from_secs(2);
