//! One request over HTTP/1.1 and all that came of it: any method, headers and body, and an
//! answer that may be cut, or left early by whoever asked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::region::Peer;
use crate::stage::Stage;

/// Who is asked, and on whose side of the stage.
#[derive(Debug)]
pub struct Server<'a> {
    address: SocketAddr,
    /// As the `Host` header has it.
    host: String,
    /// None for a front door, which speaks plain HTTP on the region's side.
    behind: Option<Behind<'a>>,
}

/// A server on the origin's side, with TLS.
#[derive(Debug)]
struct Behind<'a> {
    stage: &'a Stage,
    tls: Arc<ClientConfig>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD` and so on.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// All but `Host`.
    pub headers: HeaderMap,
    /// Empty for most.
    pub body: Bytes,
    /// Of the answer's body only so many bytes are read, about, before the client hangs up.
    pub leave_after: Option<usize>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// What arrived of the body.
    pub body: Bytes,
    /// Whether that is all of it.
    pub end: End,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As HTTP wants it.
    Whole,
    /// The server broke it off.
    Cut,
    /// The client had read enough.
    Left,
}

impl<'a> Server<'a> {
    /// The front door of a peer.
    pub fn door(peer: &Peer) -> Result<Self> {
        let host = peer.door_authority().to_owned();
        let address = host.parse().with_context(|| format!("{host} is no address"))?;
        Ok(Self { address, host, behind: None })
    }

    /// A server on the origin's side, asked there: port 443 of `address`, whose certificate for
    /// `host` the authority in the file `ca` has signed.
    pub fn at_origin(stage: &'a Stage, address: IpAddr, host: &str, ca: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?).context("trust the origin's authority")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let behind = Some(Behind { stage, tls });
        Ok(Self { address: (address, 443).into(), host: host.to_owned(), behind })
    }

    /// What it is called.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Asks on a connection of its own.
    pub fn ask(&self, request: &Request) -> Result<Reply> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = async { tokio::time::timeout(TIMEOUT, self.connect_and_ask(request)).await };
        let reply = runtime.block_on(asked).context("no whole answer in time").and_then(|reply| reply);
        reply.with_context(|| format!("{} {} of {}", request.method, request.path, self.host))
    }

    async fn connect_and_ask(&self, request: &Request) -> Result<Reply> {
        let Some(Behind { stage, tls }) = &self.behind else {
            let stream = TcpStream::connect(self.address).await.context("connect")?;
            stream.set_nodelay(true)?;
            return self.ask_on(stream, request).await;
        };
        let stream = stage.connect_at_origin(self.address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let stream = TcpStream::from_std(stream)?;
        let name = ServerName::try_from(self.host.clone())?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.context("TLS")?;
        self.ask_on(stream, request).await
    }

    async fn ask_on<S>(&self, stream: S, request: &Request) -> Result<Reply>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the runtime at the latest; what goes wrong shows in the answer.
        tokio::spawn(connection);
        let mut sent = hyper::Request::new(Full::new(request.body.clone()));
        *sent.method_mut() = request.method.clone();
        *sent.uri_mut() = request.path.parse().context("no path")?;
        *sent.headers_mut() = request.headers.clone();
        sent.headers_mut().insert(HOST, HeaderValue::from_str(&self.host)?);
        let (head, body) = sender.send_request(sent).await.context("send")?.into_parts();
        let (body, end) = read(body, request.leave_after.unwrap_or(usize::MAX)).await;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body, end })
    }
}

/// Reads a body, or at least `enough` bytes of it.
async fn read(mut body: Incoming, enough: usize) -> (Bytes, End) {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (bytes.freeze(), End::Cut) };
        bytes.extend(frame.into_data().unwrap_or_default());
        if bytes.len() >= enough {
            return (bytes.freeze(), End::Left);
        }
    }
    (bytes.freeze(), End::Whole)
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self { method, path: path.into(), headers, body, leave_after: None }
    }

    /// Sets a header.
    ///
    /// # Panics
    /// If a test wrote what can be no header.
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).expect("a test writes legal headers"));
        self
    }
}

impl Reply {
    /// The header `name`, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// One line for a person: a failed check shows what was asked, and never with which credential.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        for (name, value) in &self.headers {
            let value = value.to_str().unwrap_or("?");
            let shown = if name == "authorization" { value.split(' ').next().unwrap_or("?") } else { value };
            write!(f, " {name}={shown:?}")?;
        }
        Ok(())
    }
}

/// Status, headers, and how the body begins.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        for (name, value) in &self.headers {
            write!(f, " {name}={:?}", value.to_str().unwrap_or("?"))?;
        }
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(SHOWN_LEN)]);
        write!(f, " {:?} body of {} bytes: {shown:?}", self.end, self.body.len())
    }
}

/// More than the daemon takes for its own word.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a body in an error.
const SHOWN_LEN: usize = 160;
