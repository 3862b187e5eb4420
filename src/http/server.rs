//! A small HTTP server on a free loopback port.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Body, full};

/// A running server; it ends when this is dropped, and [`Server::stop`] waits for the end.
pub(crate) struct Server {
    address: SocketAddr,
    stop: DropGuard,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Serves `handler` on 127.0.0.1, on a port of the system's choice.
    pub(crate) async fn start<H, F>(handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, handler, stop.clone()));
        Ok(Self { address, stop: stop.drop_guard(), accepting })
    }

    /// `http://ip:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends every connection and waits until all are gone.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.accepting.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// An error in the form that OCI clients read (distribution spec, "Error Codes").
pub(crate) fn oci_error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let body = json!({ "errors": [{ "code": code, "message": message }] }).to_string();
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

async fn accept<H, F>(listener: TcpListener, handler: H, stop: CancellationToken)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let accept_all = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: connections that end give some back.
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            };
            // Without it small answers wait for the client's delayed acknowledgement.
            stream.set_nodelay(true).ok();
            let handler = handler.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                // A client that leaves mid-answer is no event here.
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accept_all).await;
    connections.shutdown().await;
}

/// Further connections wait in the kernel's queue until one of these ends.
const MAX_CONNECTIONS: usize = 1024;

/// Pause after a failed accept.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
