//! An HTTP client whose every wait has an end.

use std::time::Duration;

use flotilla_daemon::registry_tls::{self, ParseCaError};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use super::{Body, empty, text};

/// A pool of connections to any number of servers. Clones share it.
#[derive(Clone)]
pub(crate) struct HttpClient {
    way: Way,
}

#[derive(Clone)]
enum Way {
    Direct(Client<HttpsConnector<HttpConnector>, Body>),
    /// By CONNECT to a proxy, whatever the server.
    Tunnel(Client<HttpsConnector<Tunnel<HttpConnector>>, Body>),
}

impl HttpClient {
    /// For servers on this machine, over plain HTTP: it trusts no certificate at all.
    pub(crate) fn loopback() -> Self {
        let none = registry_tls::client_config(RootCertStore::empty(), None);
        Self { way: Way::direct(none.expect("there is nothing to parse").with_no_client_auth()) }
    }

    /// For servers elsewhere. Certificates are verified against the system's roots and those
    /// of `ca_pem`.
    pub(crate) fn verifying(ca_pem: Option<&str>) -> Result<Self, ParseCaError> {
        Ok(Self { way: Way::direct(tls(ca_pem)?) })
    }

    /// As [`Self::verifying`], but everything goes by CONNECT through the proxy at this URL.
    pub(crate) fn through_proxy(proxy: Uri, ca_pem: Option<&str>) -> Result<Self, ParseCaError> {
        Ok(Self { way: Way::tunnel(tls(ca_pem)?, proxy) })
    }

    /// The head of the answer, within [`HEAD_WITHIN`]; its body streams.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, RequestError> {
        let answer = tokio::time::timeout(HEAD_WITHIN, self.way.request(request)).await;
        answer.map_err(|_| RequestError::Slow)?.map_err(RequestError::Transport)
    }

    /// Status and text of a small answer, both within `limit`.
    pub(crate) async fn get_text(
        &self,
        uri: Uri,
        limit: Duration,
    ) -> Result<(StatusCode, String), RequestError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(uri)
            .body(empty())
            .expect("a GET of a parsed URI is a request");
        let answer = async {
            let response = self.way.request(request).await.map_err(RequestError::Transport)?;
            let status = response.status();
            Ok((status, text(response.into_body(), MAX_TEXT_LEN).await))
        };
        tokio::time::timeout(limit, answer).await.map_err(|_| RequestError::Slow)?
    }
}

impl Way {
    fn direct(tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        Self::Direct(Client::builder(TokioExecutor::new()).build(connector.wrap_connector(tcp())))
    }

    fn tunnel(tls: ClientConfig, proxy: Uri) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let tunnel = Tunnel::new(proxy, tcp());
        Self::Tunnel(Client::builder(TokioExecutor::new()).build(connector.wrap_connector(tunnel)))
    }

    fn request(&self, request: Request<Body>) -> ResponseFuture {
        match self {
            Self::Direct(client) => client.request(request),
            Self::Tunnel(client) => client.request(request),
        }
    }
}

/// The system's roots, and the certificates of `ca_pem`.
fn tls(ca_pem: Option<&str>) -> Result<ClientConfig, ParseCaError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(registry_tls::client_config(roots, ca_pem)?.with_no_client_auth())
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp
}

/// A server that does not take the connection by then is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The doors promise headers within 10 s; a registry behind the counting hop may be slower.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// `/metrics` of a peer with many registries stays far below this.
const MAX_TEXT_LEN: usize = 4 * 1024 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// Nothing came in time.
    #[error("no answer in time")]
    Slow,
    /// The connection failed.
    #[error("{}", chain(.0))]
    Transport(#[source] hyper_util::client::legacy::Error),
}

/// hyper's own message names only its layer; the cause a person needs is at the end of the chain.
fn chain(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
