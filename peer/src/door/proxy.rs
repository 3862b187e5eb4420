//! The door `proxy`: CONNECT. TLS is opened for configured registries, with this node's
//! own CA of that registry; every other host is a blind tunnel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_proto::RegistryHost;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::error::refusal;
use super::route::{FrontDoor, Target};
use super::{Door, serve_http};
use crate::body;
use crate::source::BodyStream;

/// What follows a CONNECT on its connection. Whoever has served the connection's HTTP runs it:
/// so it counts among the connections, and ends with the daemon.
#[derive(Clone, Default)]
pub(super) struct Upgrade(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Upgrade {
    /// Runs what is to follow, if anything is.
    pub(super) async fn run(self) {
        let then = self.slot().take();
        if let Some(then) = then {
            then.await;
        }
    }

    /// Held for one operation.
    fn slot(&self) -> MutexGuard<'_, Option<BoxFuture<'static, ()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a CONNECT, and says what follows.
pub(super) async fn connect(
    door: Arc<Door>,
    request: Request<Incoming>,
    upgrade: &Upgrade,
) -> Response<BodyStream> {
    let Some(authority) = request.uri().authority().cloned() else {
        return refusal(StatusCode::BAD_REQUEST, "UNSUPPORTED", "CONNECT names no host");
    };
    let named: Option<RegistryHost> = authority.as_str().parse().ok();
    let upstream = named.filter(|host| door.settings.borrow().upstream(host).is_some());
    let Some(upstream) = upstream else {
        return tunnel(authority.as_str(), request, upgrade).await;
    };
    let tls = match door.authorities.server(&upstream) {
        Ok(tls) => TlsAcceptor::from(tls),
        Err(error) => {
            tracing::error!(registry = %upstream, %error, "play a registry");
            return refusal(StatusCode::BAD_GATEWAY, "UNAVAILABLE", &error.to_string());
        }
    };
    after_upgrade(request, upgrade, move |upgraded| async move {
        let shaken = timeout(HANDSHAKE_TIMEOUT, tls.accept(TokioIo::new(upgraded))).await;
        match shaken {
            Ok(Ok(stream)) => {
                serve_http(stream, |request| inner(door.clone(), upstream.clone(), request)).await;
            }
            Ok(Err(error)) => tracing::warn!(
                registry = %upstream, %error,
                "a client refuses this node's certificate: does it trust the node's CA for this registry?"
            ),
            Err(_) => tracing::debug!(registry = %upstream, "a client's TLS handshake took too long"),
        }
    })
}

/// A request inside opened TLS.
async fn inner(
    door: Arc<Door>,
    upstream: RegistryHost,
    request: Request<Incoming>,
) -> Result<Response<BodyStream>, std::convert::Infallible> {
    let Some(path) = request.uri().path_and_query().cloned() else {
        return Ok(refusal(StatusCode::BAD_REQUEST, "UNSUPPORTED", "a request without a path"));
    };
    Ok(door.answer(Target { door: FrontDoor::Proxy, upstream, path }, request).await)
}

async fn tunnel(authority: &str, request: Request<Incoming>, upgrade: &Upgrade) -> Response<BodyStream> {
    let connected = timeout(DIAL_TIMEOUT, TcpStream::connect(authority)).await;
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let mut server = match connected {
        Ok(server) => server,
        Err(error) => {
            let message = format!("connect to {authority}: {error}");
            return refusal(StatusCode::BAD_GATEWAY, "UNAVAILABLE", &message);
        }
    };
    after_upgrade(request, upgrade, move |upgraded| async move {
        // Either side may end the tunnel as it likes.
        let _ = copy_bidirectional(&mut TokioIo::new(upgraded), &mut server).await;
    })
}

/// The answer that turns the connection into a stream, and what to do with that stream.
fn after_upgrade<F>(
    request: Request<Incoming>,
    upgrade: &Upgrade,
    then: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Response<BodyStream>
where
    F: Future<Output = ()> + Send,
{
    let follow = async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => then(upgraded).await,
            Err(error) => tracing::debug!(%error, "a client left before its CONNECT was answered"),
        }
    };
    *upgrade.slot() = Some(Box::pin(follow));
    Response::new(body::empty())
}

/// As clients wait for TLS themselves.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

const DIAL_TIMEOUT: Duration = Duration::from_secs(9);
