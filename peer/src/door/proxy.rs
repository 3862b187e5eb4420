//! The door `proxy`: CONNECT. TLS is opened for configured registries, with this node's
//! own CA of that registry; every other host is a blind tunnel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_proto::RegistryHost;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::allow::is_user;
use super::error::{proxy_user_wanted, refusal};
use super::route::FrontDoor;
use super::{Door, client, serving};
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

/// The refusal of whoever is none of the proxy's users, where it has some.
pub(super) async fn stranger(door: &Door, request: &Request<Incoming>) -> Option<Response<BodyStream>> {
    let file = door.proxy_users.as_ref()?;
    match is_user(file, request.headers().get(header::PROXY_AUTHORIZATION)).await {
        Ok(true) => None,
        Ok(false) => Some(proxy_user_wanted()),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "read door.proxy_users");
            Some(refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "door.proxy_users cannot be read"))
        }
    }
}

/// Logs why a client took this node for no registry.
pub(super) fn refused_certificate(registry: &RegistryHost, error: &std::io::Error) {
    tracing::warn!(
        %registry, %error,
        "a client refuses this node's certificate: does it trust the node's CA for this registry?"
    );
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
    let named = RegistryHost::dialled_at(authority.as_str());
    let upstream = named.filter(|host| door.settings.borrow().upstream(host).is_some());
    let Some(upstream) = upstream else {
        if !door.tunnels.lead_to(&authority) {
            let message =
                format!("no tunnel leads to {authority}: it is no configured registry, nor in door.tunnels");
            return refusal(StatusCode::FORBIDDEN, "DENIED", &message);
        }
        return tunnel(authority.as_str(), request, upgrade).await;
    };
    let tls = match door.authorities.server(&upstream) {
        Ok(tls) => TlsAcceptor::from(tls),
        Err(error) => {
            tracing::error!(registry = %upstream, %error, "play a registry");
            return refusal(StatusCode::BAD_GATEWAY, "UNAVAILABLE", &error.to_string());
        }
    };
    let client = client::of(request.extensions());
    after_upgrade(request, upgrade, move |upgraded| async move {
        let shaken = timeout(HANDSHAKE_TIMEOUT, tls.accept(TokioIo::new(upgraded))).await;
        match shaken {
            Ok(Ok(stream)) => {
                let handler = |request| door.clone().as_registry(FrontDoor::Proxy, upstream.clone(), request);
                serving::http(stream, &client, handler).await;
            }
            Ok(Err(error)) => refused_certificate(&upstream, &error),
            Err(_) => tracing::debug!(registry = %upstream, "a client's TLS handshake took too long"),
        }
    })
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
    let client = client::of(request.extensions());
    after_upgrade(request, upgrade, move |upgraded| async move {
        let mut upgraded = TokioIo::new(upgraded);
        tokio::select! {
            // Either side may end the tunnel as it likes.
            _ended = copy_bidirectional(&mut upgraded, &mut server) => {}
            () = client.idle_tunnel() => {}
        }
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
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

const DIAL_TIMEOUT: Duration = Duration::from_secs(9);
