//! A registry on a free port whose every answer the test writes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::super::body::{BodyStream, BoxError};

/// A request as the registry saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// How many requests came before.
    pub(super) index: usize,
    /// How many connections came before the one that it came over.
    pub(super) connection: usize,
}

impl Seen {
    pub(super) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn authorization(&self) -> &str {
        self.header(header::AUTHORIZATION)
    }

    pub(super) fn range(&self) -> &str {
        self.header(header::RANGE)
    }
}

/// What a registry does with a request.
pub(super) enum Reply {
    Answer(Response<BodyStream>),
    /// Nothing, for ever.
    Hang,
    /// Nothing, and the connection is closed.
    HangUp,
}

impl From<Response<BodyStream>> for Reply {
    fn from(response: Response<BodyStream>) -> Self {
        Self::Answer(response)
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// Stops when dropped.
pub(super) struct FakeRegistry {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

impl FakeRegistry {
    pub(super) async fn start<R: Into<Reply>>(script: impl Fn(&Seen) -> R + Send + Sync + 'static) -> Self {
        Self::serve(script, None).await
    }

    pub(super) async fn start_tls<R: Into<Reply>>(
        acceptor: TlsAcceptor,
        script: impl Fn(&Seen) -> R + Send + Sync + 'static,
    ) -> Self {
        Self::serve(script, Some(acceptor)).await
    }

    async fn serve<R: Into<Reply>>(
        script: impl Fn(&Seen) -> R + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::listen(listener, script, tls)
    }

    /// On a port that the test took.
    pub(super) fn on<R: Into<Reply>>(
        listener: TcpListener,
        script: impl Fn(&Seen) -> R + Send + Sync + 'static,
    ) -> Self {
        Self::listen(listener, script, None)
    }

    fn listen<R: Into<Reply>>(
        listener: TcpListener,
        script: impl Fn(&Seen) -> R + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(move |seen| script(seen).into());
        let log = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut count = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let book = Book { script: Arc::clone(&script), log: Arc::clone(&log), connection: count };
                connections.spawn(connection(stream, tls.clone(), book));
                count += 1;
            }
        });
        Self { address, seen, accepting }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The `Range` headers of the requests for blobs, empty for a plain GET.
    pub(super) fn blob_ranges(&self) -> Vec<String> {
        let seen = self.seen();
        let blobs = seen.iter().filter(|seen| seen.path.contains("/blobs/"));
        blobs.map(|seen| seen.range().to_owned()).collect()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A port where nobody listens.
pub(super) async fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An HTTP proxy that tunnels, and tells where to; to one place wherever it is asked for, if that is given.
pub(super) async fn proxy(internet: Option<SocketAddr>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut client = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    client.read_line(&mut head).await.unwrap();
                }
                let place = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
                let dialled = internet.map_or_else(|| place.clone(), |it| it.to_string());
                let mut server = TcpStream::connect(dialled).await.unwrap();
                tell.send(place).unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                // Either side may end the tunnel.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (url, asked)
}

/// What one connection is answered from, and where it is written down.
#[derive(Clone)]
struct Book {
    script: Arc<Script>,
    log: Arc<Mutex<Vec<Seen>>>,
    connection: usize,
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, book: Book) {
    let service = service_fn(move |request| answer(request, book.clone()));
    let server = hyper::server::conn::http1::Builder::new();
    // A client that hangs up, or a body cut on purpose, is an error here and part of the test there.
    let _ = match tls {
        None => server.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => {
            let Ok(stream) = tls.accept(stream).await else { return };
            server.serve_connection(TokioIo::new(stream), service).await
        }
    };
}

async fn answer(request: Request<Incoming>, book: Book) -> Result<Response<BodyStream>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let seen = {
        let mut log = book.log.lock().unwrap();
        let path = parts.uri.path_and_query().unwrap().to_string();
        let index = log.len();
        let connection = book.connection;
        log.push(Seen { method: parts.method, path, headers: parts.headers, body, index, connection });
        log[index].clone()
    };
    match (book.script)(&seen) {
        Reply::Answer(response) => Ok(response),
        Reply::Hang => std::future::pending().await,
        Reply::HangUp => Err("hung up".into()),
    }
}

/// What an honest registry answers to a GET of `blob`.
pub(super) fn serve(blob: &Bytes, seen: &Seen) -> Response<BodyStream> {
    let Some((first, last)) = seen.range().strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return plain(blob);
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", blob.len()))
        .header(header::CONTENT_LENGTH, last + 1 - first)
        .body(scripted(&blob.slice(first..=last), usize::MAX, Ending::Clean))
        .unwrap()
}

/// The whole blob, whatever range was asked for.
pub(super) fn plain(blob: &Bytes) -> Response<BodyStream> {
    Response::builder()
        .header(header::CONTENT_LENGTH, blob.len())
        .body(scripted(blob, usize::MAX, Ending::Clean))
        .unwrap()
}

/// The body without a length: chunked, ended as `ending` says after `len` bytes.
pub(super) fn chunked(body: &Bytes, len: usize, ending: Ending) -> Response<BodyStream> {
    Response::new(scripted(body, len, ending))
}

/// The same answer with a body that ends as `ending` says after `len` bytes.
pub(super) fn ending_after(
    len: usize,
    ending: Ending,
    answer: Response<BodyStream>,
    body: &Bytes,
) -> Response<BodyStream> {
    let (parts, _) = answer.into_parts();
    Response::from_parts(parts, scripted(body, len, ending))
}

pub(super) fn status(status: u16) -> Response<BodyStream> {
    text(status, "")
}

pub(super) fn text(status: u16, body: &str) -> Response<BodyStream> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(|never| match never {});
    Response::builder().status(status).body(body.boxed_unsync()).unwrap()
}

pub(super) fn with(
    mut response: Response<BodyStream>,
    name: header::HeaderName,
    value: &str,
) -> Response<BodyStream> {
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

fn scripted(bytes: &Bytes, len: usize, ending: Ending) -> BodyStream {
    let rest = bytes.slice(..len.min(bytes.len()));
    Scripted { rest, ending, is_flushed: true }.boxed_unsync()
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// As a body should.
    Clean,
    /// With a lost connection.
    Cut,
    /// Never.
    Stall,
}

/// Frames of at most [`FRAME`] bytes, each on the wire before the next is made.
struct Scripted {
    rest: Bytes,
    ending: Ending,
    is_flushed: bool,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.is_flushed {
            self.is_flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !self.rest.is_empty() {
            self.is_flushed = false;
            let len = FRAME.min(self.rest.len());
            return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))));
        }
        match self.ending {
            Ending::Clean => Poll::Ready(None),
            Ending::Cut => Poll::Ready(Some(Err("cut".into()))),
            Ending::Stall => Poll::Pending,
        }
    }
}

const FRAME: usize = 32 << 10;
