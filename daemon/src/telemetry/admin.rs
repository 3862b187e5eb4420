//! The admin address: `/metrics`, `/healthz`, `/readyz`, and what a daemon adds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Readiness;
use crate::bind::{BindError, bind_tcp};
use crate::config::{AdminConfig, MetricsConfig};
use crate::shutdown::Tasks;

/// What the admin address shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The daemon's metrics.
    pub metrics: Arc<Registry>,
    /// Whether it can work.
    pub readiness: Readiness,
    /// Its own pages, such as `/status`.
    pub routes: Router,
}

/// The bound addresses of a daemon's admin pages.
#[derive(Debug)]
pub struct AdminListeners {
    admin: TcpListener,
    metrics: Option<TcpListener>,
}

impl AdminListeners {
    /// Binds `admin.listen` and, where one is set, `metrics.listen`.
    ///
    /// # Errors
    ///
    /// Names the key.
    pub async fn bind(admin: &AdminConfig, metrics: &MetricsConfig) -> Result<Self, BindError> {
        let metrics = match metrics.listen {
            Some(address) => Some(bind_tcp("metrics.listen", address).await?),
            None => None,
        };
        Ok(Self { admin: bind_tcp("admin.listen", admin.listen).await?, metrics })
    }

    /// Where the admin pages are.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves the pages, and `/metrics` alone at `metrics.listen`, as tasks of the daemon.
    pub fn serve(self, tasks: &mut Tasks, admin: Admin) {
        if let Some(listener) = self.metrics {
            let router = metrics_router(admin.metrics.clone());
            tasks.spawn_fallible("metrics", serve(listener, router, tasks.shutdown().clone()));
        }
        tasks.spawn_fallible("admin", serve(self.admin, admin.router(), tasks.shutdown().clone()));
    }
}

impl Admin {
    fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz).with_state(self.readiness))
            .merge(metrics_router(self.metrics))
            .merge(self.routes)
    }
}

async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn metrics_router(metrics: Arc<Registry>) -> Router {
    Router::new().route("/metrics", get(metrics_text).with_state(metrics))
}

async fn metrics_text(State(metrics): State<Arc<Registry>>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &metrics) {
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

    use super::*;

    #[tokio::test]
    async fn the_admin_address_shows_health_readiness_metrics_and_own_pages() {
        let mut metrics = crate::telemetry::registry();
        let served = Counter::<u64>::default();
        metrics.register("flotilla_peer_source_bytes", "Bytes read from the registry", served.clone());
        served.inc_by(7);
        let readiness = Readiness::new();
        readiness.missing("settings", "none from the manager yet");
        let routes = Router::new().route("/status", get(|| async { "mine" }));
        let admin = Admin { metrics: Arc::new(metrics), readiness: readiness.clone(), routes };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, admin.router(), shutdown.clone()));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("\nflotilla_peer_source_bytes_total 7\n"));
        assert!(fetch(address, "/status").await.ends_with("mine"));
        let not_ready = fetch(address, "/readyz").await;
        assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
        assert!(not_ready.ends_with(r#"{"missing":{"settings":"none from the manager yet"},"ready":false}"#));
        readiness.met("settings");
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
