//! The front doors: how clients of this node reach the region with unchanged image names.
//!
//! `proxy`, `mirror` and `prefix` share one port: a CONNECT is the first, `?ns=` the
//! second, a registry's name in front of the repository the third. `route` tells them
//! apart. `proxy` opens TLS where it may, and so does `sni`, on a port of its own. `answer` is
//! where all of them meet; `rewrite` says what a registry says of itself in a mirror's words.

mod allow;
mod answer;
mod blob;
mod blob_body;
mod bypass;
mod ca;
mod client;
mod conditions;
mod error;
mod flight;
mod hub;
mod ledger;
mod manifest;
mod offline;
mod parts;
mod passing;
mod prefetch;
mod probing;
mod proxy;
mod pursuit;
mod range;
mod rewrite;
mod route;
mod serving;
mod sni;
mod token;
mod turns;
mod weighing;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::own_names::OwnNames;
use flotilla_daemon::settings::Receiver;
use flotilla_daemon::watched::Watched;
use flotilla_proto::RegistryHost;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::client::Client;
use self::error::{not_meant, refusal, refused_by_registry};
use self::proxy::Upgrade;
use self::route::{FrontDoor, Target, route};
use self::weighing::Scales;
use crate::bare::is_ambiguous;
use crate::source::{BodyStream, BoxError};
use crate::via::Pseudonym;

pub(crate) use allow::Tunnels;
pub(crate) use answer::Answerer;
pub(crate) use bypass::Bypasses;
pub(crate) use ca::Authorities;
pub(crate) use client::Clients;
pub(crate) use offline::KeptTokens;
pub(crate) use probing::Probes;
pub(crate) use turns::Turns;

/// The doors of a node.
pub(crate) struct Door {
    pub(crate) clients: Clients,
    pub(crate) answerer: Arc<Answerer>,
    pub(crate) authorities: Authorities,
    pub(crate) settings: Receiver,
    /// What a request that this cluster sent to a registry carries.
    pub(crate) pseudonym: Pseudonym,
    pub(crate) default_upstream: Option<RegistryHost>,
    pub(crate) tunnels: Tunnels,
    /// The file of those who may use the proxy; without one, everybody.
    pub(crate) proxy_users: Option<PathBuf>,
    /// What this node is called by those who speak to it as itself.
    pub(crate) names: OwnNames,
    /// What this node is called where a client does not say: `host:port` of `proxy`, `mirror` and `prefix`.
    pub(crate) address: String,
}

/// Where clients connect.
pub(crate) struct DoorListeners {
    /// `proxy`, `mirror` and `prefix`.
    pub(crate) shared: TcpListener,
    pub(crate) sni: Option<TcpListener>,
}

impl DoorListeners {
    /// The next client, where it comes from, and whether it came to `sni`.
    async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr, bool)> {
        let sni = async {
            match &self.sni {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.shared.accept() => accepted.map(|(stream, from)| (stream, from, false)),
            accepted = sni => accepted.map(|(stream, from)| (stream, from, true)),
        }
    }
}

impl Door {
    /// Serves clients until `shutdown`.
    pub(crate) async fn serve(self: Arc<Self>, listeners: DoorListeners, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = listeners.accept() => accepted,
            };
            let (stream, from, is_sni) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: trying at once would only spin.
                    tracing::warn!(%error, "accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (client, stream) = match self.clients.enter(stream, from) {
                Ok(entered) => entered,
                Err(stream) => {
                    // Where nobody opened TLS, nothing can be said.
                    if let Some(told) = self.clients.refuse(stream).filter(|_| !is_sni) {
                        connections.spawn(told);
                    }
                    continue;
                }
            };
            let door = self.clone();
            connections.spawn(async move {
                let serving = async {
                    match is_sni {
                        true => sni::serve(door, &client, stream).await,
                        false => door.shared(&client, stream).await,
                    }
                };
                client.serve(serving).await;
            });
        }
    }

    /// Serves a client of `proxy`, `mirror` or `prefix` to its end.
    async fn shared(self: Arc<Self>, client: &Arc<Client>, stream: Watched<TcpStream>) {
        let upgrade = Upgrade::default();
        serving::http(stream, client, |request| self.clone().outer(request, upgrade.clone())).await;
        upgrade.run().await;
    }

    /// A request as it comes over the port itself.
    async fn outer(
        self: Arc<Self>,
        request: Request<Incoming>,
        upgrade: Upgrade,
    ) -> Result<Response<BodyStream>, Infallible> {
        let is_proxied = request.uri().authority().is_some();
        if is_proxied && let Some(refused) = proxy::stranger(&self, &request).await {
            return Ok(refused);
        }
        if request.method() == Method::CONNECT {
            return Ok(proxy::connect(self, request, &upgrade).await);
        }
        if let Some(authority) = request.uri().authority() {
            return Ok(self.absolute(authority.clone(), request).await);
        }
        if let Err(stranger) = self.names.check(request.uri(), request.headers()) {
            return Ok(not_meant(&stranger));
        }
        let Some(path) = request.uri().path_and_query() else {
            return Ok(refusal(StatusCode::BAD_REQUEST, "UNSUPPORTED", "a request without a path"));
        };
        let (configured, default) = (self.configured(), self.default_upstream.as_ref());
        let routed = match token::is_token_path(path.path()) {
            true => token::route(path, &configured, default),
            false => route(path, &configured, default),
        };
        match routed {
            Ok(target) => Ok(self.answer(hub::known_name(target), request).await),
            // The base of several registries: the token that clients then ask for names one.
            Err(_) if path.path() == "/v2/" && path.query().is_none() => Ok(base(&self.host_of(&request))),
            Err(refused) => Ok(refusal(refused.status, refused.code, &refused.message)),
        }
    }

    /// A request of a client whose plain-HTTP proxy this is.
    async fn absolute(&self, authority: uri::Authority, request: Request<Incoming>) -> Response<BodyStream> {
        let named = RegistryHost::dialled_at(authority.as_str());
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

    /// A request inside TLS that this node opened in the registry's name.
    async fn as_registry(
        self: Arc<Self>,
        door: FrontDoor,
        upstream: RegistryHost,
        request: Request<Incoming>,
    ) -> Result<Response<BodyStream>, Infallible> {
        let Some(path) = request.uri().path_and_query().cloned() else {
            return Ok(refusal(StatusCode::BAD_REQUEST, "UNSUPPORTED", "a request without a path"));
        };
        Ok(self.answer(Target { door, upstream, path }, request).await)
    }

    async fn answer(&self, target: Target, request: Request<Incoming>) -> Response<BodyStream> {
        if self.pseudonym.is_in(request.headers()) {
            let message = format!(
                "a seed was led back to this node: give {} the address of its endpoint with `flotilla registry set --address`",
                target.upstream
            );
            return refusal(StatusCode::LOOP_DETECTED, "UNAVAILABLE", &message);
        }
        // What it names is a registry; whose page asks is to be seen all the same.
        let meant = self.names.check_origin(request.uri(), request.headers());
        if let Err(stranger) = meant {
            return not_meant(&stranger);
        }
        if is_ambiguous(request.headers()) {
            let message =
                "several Authorization headers, or one that Connection ends here: which credential is meant?";
            return refusal(StatusCode::BAD_REQUEST, "UNSUPPORTED", message);
        }
        let (method, path) = (request.method().clone(), target.path.path().to_owned());
        let scales = Scales::new(request.extensions());
        let host = self.host_of(&request);
        let mut request =
            request.map(|body| body.map_err(|error| -> BoxError { Box::new(error) }).boxed_unsync());
        let response = if target.door.plays_registry() {
            self.answerer.answer(&target, request).await
        } else {
            token::unwrap_own(request.headers_mut());
            let is_token = token::is_token_path(&path);
            let mut response = match is_token {
                true => self.answerer.token(&target, request).await,
                false => self.answerer.answer(&target, request).await,
            };
            rewrite::headers(response.headers_mut(), &target, &host);
            response
        };
        let mut response = scales.weighed(response).await;
        refused_by_registry(&mut response);
        let (door, registry) = (target.door, target.upstream);
        tracing::debug!(?door, %registry, %method, path, status = response.status().as_u16(), "answered");
        response
    }

    /// What a client calls this node.
    fn host_of<B>(&self, request: &Request<B>) -> String {
        let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        let named = named.filter(|host| host.parse::<uri::Authority>().is_ok());
        named.unwrap_or(&self.address).to_owned()
    }

    fn configured(&self) -> Vec<RegistryHost> {
        self.settings.borrow().registries.iter().map(|upstream| upstream.host.clone()).collect()
    }
}

/// What `/v2/` says where any of several registries may be meant: a token, please.
fn base(door_host: &str) -> Response<BodyStream> {
    let message = "ask for a token; the repository in its scope says which registry is meant";
    let mut response = refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    let challenge = format!("Bearer realm=\"{}\",service=\"flotilla\"", token::realm(door_host, None));
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
