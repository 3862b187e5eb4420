//! A client of a registry, as the node's runtime is one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cluster::within;
use crate::registry::{HOST, MANIFEST};

/// A client that asks at one door, with at most one credential.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) door: SocketAddr,
    pub(crate) credential: Option<String>,
}

/// Which door a client comes to; the two that speak TLS with the bundle of their node's CA.
#[derive(Debug)]
pub(crate) enum Door {
    Mirror,
    Prefix,
    Proxy(PathBuf),
    Sni(SocketAddr, PathBuf),
}

/// What it got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body ended as its headers said.
    pub(crate) is_complete: bool,
}

impl Client {
    pub(crate) fn with(&self, credential: &str) -> Self {
        Self { credential: Some(credential.to_owned()), ..self.clone() }
    }

    /// GET of a path as it is.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    /// HEAD of a path as it is.
    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.ask(Method::HEAD, path, &[]).await
    }

    /// Through the mirror, as containerd asks.
    pub(crate) async fn mirror(&self, path: &str) -> Answer {
        self.get(&format!("{path}?ns={HOST}")).await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        collect(self.begin(method, path, headers).await).await
    }

    /// The answer's head; its body is still to come.
    pub(crate) async fn begin(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> http::Response<Incoming> {
        let stream = TcpStream::connect(self.door).await.unwrap();
        within(exchange(stream, self.request(&self.door.to_string(), method, path, headers))).await
    }

    /// GET through the proxy, over TLS that this node's own CA vouches for.
    pub(crate) async fn proxied(&self, bundle: &Path, path: &str) -> Answer {
        self.at(&Door::Proxy(bundle.to_owned()), Method::GET, path, &[]).await
    }

    /// At a door of the node's, as a client of that kind asks.
    pub(crate) async fn at(
        &self,
        door: &Door,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let stream = match door {
            Door::Mirror => return self.ask(method, &format!("{path}?ns={HOST}"), headers).await,
            Door::Prefix => {
                let path = path.replacen("/v2/", &format!("/v2/{HOST}/"), 1);
                return self.ask(method, &path, headers).await;
            }
            Door::Proxy(bundle) => tls_through(self.door, HOST, 443, &roots_of(bundle)).await,
            Door::Sni(address, bundle) => {
                tls(TcpStream::connect(address).await.unwrap(), HOST, &roots_of(bundle)).await
            }
        };
        let request = self.request(HOST, method, path, headers);
        collect(within(exchange(stream.unwrap(), request)).await).await
    }

    /// Over TLS with the door `sni`, under the registry's name.
    pub(crate) async fn by_sni(
        &self,
        sni: SocketAddr,
        host: &str,
        roots: &Arc<RootCertStore>,
        method: Method,
        path: String,
    ) -> std::io::Result<Answer> {
        let stream = tls(TcpStream::connect(sni).await?, host, roots).await?;
        Ok(collect(within(exchange(stream, self.request(HOST, method, &path, &[]))).await).await)
    }

    /// A request to what is called `host`, unless `headers` say another.
    fn request(
        &self,
        host: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Request<Empty<Bytes>> {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header(header::HOST, host);
        }
        request = request.header(header::ACCEPT, MANIFEST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(credential) = &self.credential {
            request = request.header(header::AUTHORIZATION, credential);
        }
        request.body(Empty::new()).unwrap()
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The first error of a body as the distribution spec has it.
    pub(crate) fn error(&self) -> (String, String) {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let text = |key: &str| body["errors"][0][key].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> http::Response<Incoming>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    // It ends with the body, whole or cut.
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

/// The rest of an answer.
pub(crate) async fn collect(answer: http::Response<Incoming>) -> Answer {
    let (head, mut body) = answer.into_parts();
    let mut whole = BytesMut::new();
    let is_complete = loop {
        match within(body.frame()).await {
            Some(Ok(frame)) => whole.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    Answer { status: head.status, headers: head.headers, body: whole.freeze(), is_complete }
}

/// The next bytes of a body.
pub(crate) async fn next_bytes(answer: &mut http::Response<Incoming>) -> Bytes {
    within(answer.frame()).await.unwrap().unwrap().into_data().unwrap()
}

/// TLS with `host` through the proxy.
pub(crate) async fn tls_through(
    door: SocketAddr,
    host: &str,
    port: u16,
    roots: &Arc<RootCertStore>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(door).await?;
    stream
        .write_all(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").as_bytes())
        .await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await?);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    tls(stream, host, roots).await
}

async fn tls(
    stream: TcpStream,
    host: &str,
    roots: &Arc<RootCertStore>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// The certificates of a PEM file, as roots.
pub(crate) fn roots_of(file: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    Arc::new(roots)
}
