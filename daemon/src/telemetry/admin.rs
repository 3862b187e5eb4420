//! The admin address: `/metrics`, `/healthz`, `/readyz`, and what a daemon adds.
//!
//! Loopback is no password: a browser on this machine reaches it for any page. See [`own_names`](crate::own_names).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::Readiness;
use super::serve::{LetGo, serve};
use crate::bind::{BindError, bind_tcp};
use crate::config::{AdminConfig, MetricsConfig};
use crate::own_names::OwnNames;
use crate::shutdown::Tasks;

/// What a daemon adds to its admin address once it works.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The daemon's metrics.
    pub metrics: Arc<Registry>,
    /// Its own pages, such as `/status`.
    pub routes: Router,
}

/// The admin pages of a daemon, from before it works: `/healthz` and `/readyz` answer at
/// once, the others when [`Self::complete`] has brought them. Dropped, it ends.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    pages: Arc<OnceLock<Router>>,
    metrics: Option<(TcpListener, OwnNames)>,
    let_go: LetGo,
    stop: CancellationToken,
    running: JoinSet<io::Result<()>>,
}

impl AdminServer {
    /// Binds `admin.listen` and answers there.
    ///
    /// # Errors
    ///
    /// Names the key.
    pub fn start(admin: &AdminConfig, readiness: Readiness) -> Result<Self, BindError> {
        let listener = bind_tcp("admin.listen", admin.listen)?;
        let address = listener.local_addr().map_err(|source| BindError::Refused {
            key: "admin.listen",
            address: admin.listen,
            source,
        })?;
        let (pages, stop) = (Arc::new(OnceLock::new()), CancellationToken::new());
        let mut running = JoinSet::new();
        let let_go = LetGo::default();
        let router =
            answering_to(OwnNames::new("admin.names", &admin.names), router(readiness, pages.clone()));
        running.spawn(serve(listener, router, let_go.clone(), stop.clone()));
        Ok(Self { address, pages, metrics: None, let_go, stop, running })
    }

    /// Binds `metrics.listen` where one is set.
    ///
    /// # Errors
    ///
    /// Names the key.
    pub fn bind_metrics(&mut self, metrics: &MetricsConfig) -> Result<(), BindError> {
        let listener = metrics.listen.map(|address| bind_tcp("metrics.listen", address)).transpose()?;
        self.metrics = listener.map(|listener| (listener, OwnNames::new("metrics.names", &metrics.names)));
        Ok(())
    }

    /// Where the admin pages are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wherever it listens, for metrics alone too.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let metrics = self.metrics.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        std::iter::once(self.address).chain(metrics)
    }

    /// Adds the pages, and `/metrics` alone at `metrics.listen`; from here on they live as
    /// tasks of the daemon.
    pub fn complete(mut self, tasks: &mut Tasks, admin: Admin) {
        let mut own = Registry::default();
        self.let_go.register(&mut own);
        let metrics = metrics_router([admin.metrics, Arc::new(own)]);
        if let Some((listener, names)) = self.metrics.take() {
            let router = answering_to(names, metrics.clone());
            let serve = serve(listener, router, self.let_go.clone(), tasks.shutdown().clone());
            tasks.spawn_fallible("metrics", serve);
        }
        // Nobody else sets it: `self` is consumed.
        let _set_once = self.pages.set(metrics.merge(admin.routes));
        let shutdown = tasks.shutdown().clone();
        tasks.spawn_fallible("admin", async move {
            tokio::select! {
                () = shutdown.cancelled() => self.stop.cancel(),
                ended = self.running.join_next() => return ended.map_or(Ok(()), flatten),
            }
            self.running.join_next().await.map_or(Ok(()), flatten)
        });
    }
}

fn flatten(ended: Result<io::Result<()>, tokio::task::JoinError>) -> io::Result<()> {
    ended.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn router(readiness: Readiness, pages: Arc<OnceLock<Router>>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness.clone()))
        .fallback(move |request: Request| page(pages.get().cloned(), readiness, request))
}

/// The same pages, for those who mean this daemon.
fn answering_to(names: OwnNames, router: Router) -> Router {
    router.layer(from_fn_with_state(Arc::new(names), meant))
}

async fn meant(State(names): State<Arc<OwnNames>>, request: Request, next: Next) -> Response {
    match names.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(stranger) => (StatusCode::FORBIDDEN, format!("{stranger}\n")).into_response(),
    }
}

/// A page of the daemon's own; until it has some, what it waits for.
async fn page(pages: Option<Router>, readiness: Readiness, request: Request) -> Response {
    if let Some(mut router) = pages {
        return router.call(request).await.unwrap_or_else(|never| match never {});
    }
    let missing = readiness.unmet().into_iter().map(|(what, why)| format!("; {what}: {why}"));
    let text = format!("not serving yet{}\n", missing.collect::<String>());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// The daemon's metrics, and those of its pages.
type Shown = [Arc<Registry>; 2];

fn metrics_router(shown: Shown) -> Router {
    Router::new().route("/metrics", get(metrics_text).with_state(shown))
}

async fn metrics_text(State(shown): State<Shown>) -> Response {
    let mut body = String::new();
    let mut registries = shown.iter();
    let encoded = registries.try_for_each(|registry| text::encode_registry(&mut body, registry));
    match encoded.and_then(|()| text::encode_eof(&mut body)) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.unmet();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": missing.is_empty(), "missing": missing }))).into_response()
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::super::serve::CLIENTS;
    use super::*;

    #[tokio::test]
    async fn the_admin_address_shows_health_readiness_metrics_and_own_pages() {
        let mut metrics = crate::telemetry::registry();
        let served = Counter::<u64>::default();
        metrics.register("flotilla_peer_source_bytes", "Bytes read from the registry", served.clone());
        served.inc_by(7);
        let readiness = Readiness::new();
        readiness.missing("settings", "none from the manager yet");
        let config = AdminConfig::on_port(0);
        let mut server = AdminServer::start(&config, readiness.clone()).unwrap();
        let names = vec!["*.example.com".parse().unwrap()];
        server.bind_metrics(&MetricsConfig { listen: Some(config.listen), names }).unwrap();
        let (address, for_prometheus) = (server.address(), server.addresses().last().unwrap());
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/status").await.starts_with("HTTP/1.1 503"));

        let routes = Router::new().route("/status", get(|| async { "mine" }));
        let mut tasks = Tasks::new(CancellationToken::new());
        let shutdown = tasks.shutdown().clone();
        server.complete(&mut tasks, Admin { metrics: Arc::new(metrics), routes });

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let shown = fetch(address, "/metrics").await;
        assert!(shown.contains("\nflotilla_peer_source_bytes_total 7\n"), "{shown}");
        assert!(shown.contains("\nflotilla_admin_let_go_total{reason=\"full\"} 0\n"), "{shown}");
        assert!(shown.matches("# EOF").count() == 1 && shown.ends_with("# EOF\n"), "{shown}");
        assert!(fetch(address, "/status").await.ends_with("mine"));
        let not_ready = fetch(address, "/readyz").await;
        assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
        assert!(not_ready.ends_with(r#"{"missing":{"settings":"none from the manager yet"},"ready":false}"#));
        readiness.met("settings");
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        assert!(fetch(address, "/nowhere").await.starts_with("HTTP/1.1 404"));

        for page in ["/healthz", "/readyz", "/metrics", "/status", "/nowhere"] {
            let rebound = ask(address, page, "Host: evil.test").await;
            assert!(rebound.starts_with("HTTP/1.1 403") && rebound.contains("admin.names"), "{rebound}");
            let foreign = ask(address, page, "Host: localhost\r\nOrigin: http://evil.test").await;
            assert!(foreign.starts_with("HTTP/1.1 403") && foreign.contains("admin.names"), "{foreign}");
        }
        for lines in [format!("Host: {address}"), "X-No-Host: 1".to_owned()] {
            assert!(ask(address, "/metrics", &lines).await.starts_with("HTTP/1.1 200"), "{lines}");
        }
        let scraped = ask(for_prometheus, "/metrics", "Host: node-17.example.com:9100").await;
        assert!(scraped.starts_with("HTTP/1.1 200"), "{scraped}");
        let rebound = ask(for_prometheus, "/metrics", "Host: evil.test").await;
        assert!(rebound.starts_with("HTTP/1.1 403") && rebound.contains("metrics.names"), "{rebound}");

        shutdown.cancel();
        tasks.drain(std::time::Duration::from_secs(30)).await.unwrap();
        TcpStream::connect(address).await.unwrap_err();
    }

    #[tokio::test]
    async fn idle_clients_of_one_owner_keep_nobody_from_the_pages() {
        let server = AdminServer::start(&AdminConfig::on_port(0), Readiness::new()).unwrap();
        let address = server.address();
        let mut idle = Vec::new();
        for _ in 0..4 * CLIENTS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        // The first ones made room: there are never more than the bound.
        assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(idle[3 * CLIENTS - 1].read(&mut [0; 1]).await.unwrap(), 0);
        let last = &mut idle[4 * CLIENTS - 1];
        last.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        last.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok\n"), "the last ones stay: {answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_half_a_head_is_let_go() {
        let server = AdminServer::start(&AdminConfig::on_port(0), Readiness::new()).unwrap();
        let mut half = TcpStream::connect(server.address()).await.unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
        let mut answer = String::new();
        half.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "");
    }

    async fn fetch(address: SocketAddr, path: &str) -> String {
        ask(address, path, "Host: localhost").await
    }

    async fn ask(address: SocketAddr, path: &str, lines: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\n{lines}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
