//! The shell: accepts connections, reads requests, sends the core's answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::body::{self, Body, Flushes, Flushing};
use super::call::{Call, Host};

/// Serves one host until the runtime ends.
pub(super) async fn accept(shared: Arc<Shared>, host: Host, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let id = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(Arc::clone(&shared), Connection { id, host, remote }, stream));
            }
            Err(error) => {
                eprintln!("the fake Harbor no longer accepts connections: {error}");
                return;
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    id: u64,
    host: Host,
    remote: SocketAddr,
}

/// A connection that fails is its caller's matter, who sees it too.
async fn serve(shared: Arc<Shared>, connection: Connection, stream: TcpStream) {
    let acceptor = TlsAcceptor::from(shared.tls(connection.host));
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let (stream, flushes) = Flushing::new(stream);
    let service = service_fn(|request| {
        let (shared, flushes) = (Arc::clone(&shared), flushes.clone());
        async move { Ok::<_, Infallible>(respond(shared, connection, flushes, request).await) }
    });
    let mut server = http1::Builder::new();
    server.title_case_headers(true).max_buf_size(MAX_BUFFERED_LEN);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    shared: Arc<Shared>,
    connection: Connection,
    flushes: Flushes,
    request: Request<Incoming>,
) -> Response<Body> {
    let call = read(connection.host, request).await;
    let entry = shared.journal.begin(&call, connection.id, connection.remote.ip());
    let (mut answer, latency) = {
        let mut registry = shared.registry();
        (registry.answer(&call), registry.behaviour.latency)
    };
    tokio::time::sleep(latency).await;
    for wait in std::mem::take(&mut answer.waits) {
        wait.over().await;
    }
    entry.status(answer.status.as_u16());
    let (status, mut headers) = (answer.status, std::mem::take(&mut answer.headers));
    let bodiless = matches!(status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    if !answer.chunked && !bodiless {
        headers.insert(CONTENT_LENGTH, answer.body.len().into());
    }
    let mut response = Response::new(body::body(answer, entry, flushes, shared));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Reads a request whole. One that breaks off is answered, if at all, as far as it came.
async fn read(host: Host, request: Request<Incoming>) -> Call {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Call {
        host,
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        at: SystemTime::now(),
    }
}

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);
const MAX_BUFFERED_LEN: usize = 64 << 10;
