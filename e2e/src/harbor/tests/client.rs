//! A client that shows an answer as it came, also one that broke off.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::Host;

/// Knows where both hosts listen, and trusts their authority.
pub(super) struct Client {
    addresses: [SocketAddr; 2],
    roots: Arc<RootCertStore>,
}

/// A request.
pub(super) struct Ask {
    host: Host,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Whether the body ended as HTTP wants it.
    pub(super) is_whole: bool,
}

impl Client {
    pub(super) fn new(addresses: [SocketAddr; 2], ca: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        Self { addresses, roots: Arc::new(roots) }
    }

    /// Asks on a connection of its own.
    pub(super) fn ask(&self, ask: Ask) -> Reply {
        self.ask_all(vec![ask]).pop().unwrap()
    }

    /// Asks one after the other on one connection.
    pub(super) fn ask_all(&self, asks: Vec<Ask>) -> Vec<Reply> {
        block_on(async {
            let stream = self.connect(asks[0].host, &[]).await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let mut replies = Vec::new();
            for ask in asks {
                sender.ready().await.unwrap();
                let response = sender.send_request(ask.into_request()).await.unwrap();
                replies.push(Reply::read(response).await);
            }
            replies
        })
    }

    /// The protocol that a host agrees to, of those offered, or why it does not.
    pub(super) fn alpn(&self, host: Host, offered: &[&[u8]]) -> Result<Option<Vec<u8>>, String> {
        block_on(async {
            let stream = self.connect(host, offered).await.map_err(|error| error.to_string())?;
            Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
        })
    }

    async fn connect(&self, host: Host, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config =
            config.unwrap().with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TcpStream::connect(self.addresses[host as usize]).await?;
        let name = ServerName::try_from(name(host)).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

impl Ask {
    pub(super) fn new(method: Method, target: impl Into<String>) -> Self {
        let target = target.into();
        Self { host: Host::Registry, method, target, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn get(target: impl Into<String>) -> Self {
        Self::new(Method::GET, target)
    }

    /// A GET of a URL of the object store's.
    pub(super) fn url(url: &str) -> Self {
        let (_, target) = url.strip_prefix("https://s3.test:").unwrap().split_once('/').unwrap();
        Self { host: Host::Storage, ..Self::get(format!("/{target}")) }
    }

    /// The same with another method.
    pub(super) fn with(self, method: Method) -> Self {
        Self { method, ..self }
    }

    pub(super) fn head(self) -> Self {
        self.with(Method::HEAD)
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub(super) fn basic(self, name: &str, secret: &str) -> Self {
        let pair = BASE64_STANDARD.encode(format!("{name}:{secret}"));
        self.header("authorization", &format!("Basic {pair}"))
    }

    pub(super) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(super) fn range(self, range: &str) -> Self {
        self.header("range", range)
    }

    pub(super) fn body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec().into(), ..self }
    }

    fn into_request(self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.target.parse().unwrap();
        *request.headers_mut() = self.headers;
        request.headers_mut().entry(HOST).or_insert(name(self.host).parse().unwrap());
        request
    }
}

impl Reply {
    async fn read(response: hyper::Response<hyper::body::Incoming>) -> Self {
        let (parts, mut incoming) = response.into_parts();
        let (mut body, mut is_whole) = (Vec::new(), true);
        while let Some(frame) = incoming.frame().await {
            match frame {
                Ok(frame) => body.extend_from_slice(frame.data_ref().unwrap()),
                Err(_) => is_whole = false,
            }
        }
        Self { status: parts.status.as_u16(), headers: parts.headers, body, is_whole }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of its error.
    pub(super) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }

    /// The challenge of a 401.
    pub(super) fn challenge(&self) -> &str {
        assert_eq!(self.status, 401);
        assert_eq!(self.header("docker-distribution-api-version"), Some("registry/2.0"));
        self.header("www-authenticate").unwrap()
    }

    /// What a reply must state to have no `Content-Length`.
    pub(super) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked") && self.header("content-length").is_none()
    }
}

fn name(host: Host) -> &'static str {
    match host {
        Host::Registry => "harbor.test",
        Host::Storage => "s3.test",
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
