//! The front doors: how clients of this node reach the region with unchanged image names.
//!
//! `proxy`, `mirror` and `prefix` share one port: a CONNECT is the first, `?ns=` the
//! second, a registry's name in front of the repository the third. `route` tells them
//! apart, `proxy` opens TLS where it may, `answer` is where all of them meet.

mod answer;
mod blob;
mod ca;
mod error;
mod manifest;
mod proxy;
mod range;
mod route;
mod turns;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::settings::Receiver;
use flotilla_proto::RegistryHost;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::error::refusal;
use self::proxy::Upgrade;
use self::route::{FrontDoor, Target, route};
use crate::body;
use crate::source::{BodyStream, BoxError};

pub(crate) use answer::Answerer;
pub(crate) use ca::Authorities;
pub(crate) use turns::Turns;

/// The doors on one port.
pub(crate) struct Door {
    pub(crate) answerer: Answerer,
    pub(crate) authorities: Authorities,
    pub(crate) settings: Receiver,
    pub(crate) default_upstream: Option<RegistryHost>,
}

impl Door {
    /// Serves clients until `shutdown`.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: trying at once would only spin.
                    tracing::warn!(%error, "accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                tracing::warn!(limit = MAX_CONNECTIONS, "client turned away: too many are connected");
                continue;
            };
            // Small answers should not wait for more; a client that is gone shows later.
            let _ = stream.set_nodelay(true);
            let door = self.clone();
            connections.spawn(async move {
                let _permit = permit;
                let upgrade = Upgrade::default();
                serve_http(stream, |request| door.clone().outer(request, upgrade.clone())).await;
                upgrade.run().await;
            });
        }
    }

    /// A request as it comes over the port itself.
    async fn outer(
        self: Arc<Self>,
        request: Request<Incoming>,
        upgrade: Upgrade,
    ) -> Result<Response<BodyStream>, Infallible> {
        if request.method() == Method::CONNECT {
            return Ok(proxy::connect(self, request, &upgrade).await);
        }
        if let Some(authority) = request.uri().authority() {
            return Ok(self.absolute(authority.clone(), request).await);
        }
        let Some(path) = request.uri().path_and_query() else {
            return Ok(refusal(StatusCode::BAD_REQUEST, "UNSUPPORTED", "a request without a path"));
        };
        match route(path, &self.configured(), self.default_upstream.as_ref()) {
            Ok(target) => Ok(self.answer(target, request).await),
            // The base of several registries: none is asked, and clients go on to a repository.
            Err(_) if path.path() == "/v2/" && path.query().is_none() => Ok(base()),
            Err(refused) => Ok(refusal(refused.status, refused.code, &refused.message)),
        }
    }

    /// A request of a client whose plain-HTTP proxy this is.
    async fn absolute(
        &self,
        authority: http::uri::Authority,
        request: Request<Incoming>,
    ) -> Response<BodyStream> {
        let named: Option<RegistryHost> = authority.as_str().parse().ok();
        let upstream = named.filter(|host| self.settings.borrow().upstream(host).is_some());
        let path = request.uri().path_and_query().cloned();
        match (upstream, path) {
            (Some(upstream), Some(path)) => {
                self.answer(Target { door: FrontDoor::Proxy, upstream, path }, request).await
            }
            _ => {
                let message =
                    format!("plain HTTP to {authority} is not carried: it is no configured registry");
                refusal(StatusCode::FORBIDDEN, "DENIED", &message)
            }
        }
    }

    async fn answer(&self, target: Target, request: Request<Incoming>) -> Response<BodyStream> {
        let (method, path) = (request.method().clone(), target.path.path().to_owned());
        let (door, registry) = (target.door, target.upstream.clone());
        let request =
            request.map(|body| body.map_err(|error| -> BoxError { Box::new(error) }).boxed_unsync());
        let response = self.answerer.answer(target, request).await;
        tracing::debug!(?door, %registry, %method, path, status = response.status().as_u16(), "answered");
        response
    }

    fn configured(&self) -> Vec<RegistryHost> {
        self.settings.borrow().registries.iter().map(|upstream| upstream.host.clone()).collect()
    }
}

/// What `/v2/` says where no registry is meant: this is one, and needs no credential.
fn base() -> Response<BodyStream> {
    let mut response = Response::new(body::full("{}"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(error::API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

/// Serves HTTP/1.1 on a client's stream until it ends. A client that goes away is no error.
async fn serve_http<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<BodyStream>, Infallible>> + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(handler))
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

/// Clients at a time; one more is turned away. A node's runtime opens some dozen.
const MAX_CONNECTIONS: usize = 4096;

/// A kept-alive connection may be idle as long, too.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of a request's head, tokens of several KiB among them.
const MAX_HEAD: usize = 64 << 10;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
