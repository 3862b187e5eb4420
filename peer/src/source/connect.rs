//! Connections to one endpoint: verified TLS, a small receive buffer, a static address where one is set.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use flotilla_daemon::registry_tls::{self, ParseCaError};
use flotilla_daemon::settings::ProxyUrl;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::body::{BodyStream, BoxError};
use super::client_certificate::Shown;

/// The HTTP client of one endpoint, with its pool of warm connections.
pub(super) type HttpClient = Client<Connector, BodyStream>;

/// How to reach one endpoint.
pub(super) struct Reach<'a> {
    /// The system's roots.
    pub(super) roots: &'a RootCertStore,
    /// Certificates trusted besides, as PEM.
    pub(super) ca_pem: Option<&'a str>,
    /// The registry's own machine.
    pub(super) home: &'a str,
    /// What to show to it, and to nobody else, if it asks.
    pub(super) client_certificate: Option<Arc<Shown>>,
    /// What to dial in place of a name.
    pub(super) detour: Option<Detour>,
    /// What to dial through: it is asked for a tunnel to each place, names left to it to resolve.
    pub(super) proxy: Option<&'a ProxyUrl>,
    /// For the connection to stand, TLS included.
    pub(super) connect_timeout: Duration,
}

impl Reach<'_> {
    /// What makes connections for HTTP/1.1 only: a registry's HTTP/2 gains a reader of large blobs nothing,
    /// and one connection per read is what makes a stall visible.
    pub(super) fn connector(self) -> Result<Connector, ParseCaError> {
        let tls = || registry_tls::client_config(self.roots.clone(), self.ca_pem);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        tcp.set_connect_timeout(Some(self.connect_timeout));
        tcp.set_recv_buffer_size(Some(RECEIVE_BUFFER));
        let dial = Dial { proxy: self.proxy.map(|url| tunnel(url, &tcp)), tcp, detour: self.detour };
        let home = match self.client_certificate.clone() {
            Some(certificate) => {
                let https = https(tls()?.with_client_cert_resolver(certificate), dial.clone());
                Some((self.home.to_owned(), https))
            }
            None => None,
        };
        let https = https(tls()?.with_no_client_auth(), dial);
        Ok(Connector { https, home, limit: self.connect_timeout })
    }
}

/// A client without any connection yet.
pub(super) fn client(connector: Connector) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_MAX_IDLE)
        .build(connector)
}

fn https(tls: ClientConfig, dial: Dial) -> HttpsConnector<Dial> {
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(dial)
}

fn tunnel(proxy: &ProxyUrl, tcp: &HttpConnector) -> Tunnel<HttpConnector> {
    let uri = format!("http://{}:{}", proxy.host(), proxy.port()).parse().expect("a host and a port");
    Tunnel::new(uri, tcp.clone())
}

/// Dials `address` where `host` is meant; TLS and `Host` keep the name.
#[derive(Debug, Clone)]
pub(super) struct Detour {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) address: SocketAddr,
}

impl Detour {
    /// What to dial for `uri`. Another port of the same host is the same machine.
    fn apply(&self, uri: &Uri) -> Option<Uri> {
        if !uri.host()?.eq_ignore_ascii_case(&self.host) {
            return None;
        }
        let mut address = self.address;
        let port = port_of(uri);
        if port != self.port {
            address.set_port(port);
        }
        format!("http://{address}/").parse().ok()
    }
}

/// The port that a URI means.
pub(super) fn port_of(uri: &Uri) -> u16 {
    let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    uri.port_u16().unwrap_or(default)
}

/// TCP under the TLS connector.
#[derive(Debug, Clone)]
struct Dial {
    tcp: HttpConnector,
    proxy: Option<Tunnel<HttpConnector>>,
    detour: Option<Detour>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let detour = self.detour.as_ref().and_then(|detour| detour.apply(&uri));
        let place = detour.unwrap_or(uri);
        match &mut self.proxy {
            Some(proxy) => {
                let connecting = proxy.call(place);
                Box::pin(async move { Ok(connecting.await?) })
            }
            None => {
                let connecting = self.tcp.call(place);
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
    }
}

/// TCP and TLS within one limit: a server that accepts and then says nothing is no connection.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    https: HttpsConnector<Dial>,
    /// A host to which a certificate is shown, and how it is connected to.
    home: Option<(String, HttpsConnector<Dial>)>,
    limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Some((_, home)) = &mut self.home {
            ready!(home.poll_ready(cx))?;
        }
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = match &mut self.home {
            Some((host, home)) if uri.host().is_some_and(|it| it.eq_ignore_ascii_case(host)) => {
                home.call(uri)
            }
            _ => self.https.call(uri),
        };
        let limit = self.limit;
        Box::pin(async move {
            tokio::time::timeout(limit, connecting).await.map_err(|_| ConnectTimeout { limit })?
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no connection within {limit:?}")]
struct ConnectTimeout {
    limit: Duration,
}

/// A reader that dies leaves at most about this much read ahead. Set, it replaces the kernel's tuning,
/// which goes up to `tcp_rmem`, often 32 MiB; the kernel caps it at `net.core.rmem_max`.
pub(super) const RECEIVE_BUFFER: usize = 1 << 20;
/// Unused connections stay warm this long; common registry front ends close at 60 to 75 s.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// Warm connections per endpoint; more are closed after use.
const POOL_MAX_IDLE: usize = 16;
/// A connection that rests is probed after so long, which also keeps what lies between from forgetting it. One
/// whose other end vanished is noticed, and goes, within 16 s.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detour_stands_for_one_host_whatever_the_port() {
        let detour = Detour { host: "reg.test".into(), port: 443, address: "[::1]:8443".parse().unwrap() };
        let dialled = |uri: &str| detour.apply(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(dialled("https://REG.test/v2/").as_deref(), Some("http://[::1]:8443/"));
        assert_eq!(dialled("https://reg.test:5001/t").as_deref(), Some("http://[::1]:5001/"));
        assert_eq!(dialled("https://s3.test/"), None);
    }
}
