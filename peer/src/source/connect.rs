//! Connections to one endpoint: verified TLS, a small receive buffer, a static address where one is set.
//!
//! Where the registry leads off its own host and port, a name is resolved once: what is judged is what is dialled.

use std::convert::Infallible;
use std::future::{Future, Ready};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use flotilla_daemon::registry_tls::{self, ParseCaError};
use flotilla_daemon::settings::{EndpointUrl, ProxyUrl};
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::body::{BodyStream, BoxError};
use super::bounds::{Bounds, Refused, is_odd_address, literal};
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
    pub(super) home: &'a EndpointUrl,
    /// Where it is, and may lead.
    pub(super) own: Arc<OwnAddress>,
    pub(super) bounds: Arc<Bounds>,
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
        let limit = self.connect_timeout;
        let dial = Dial {
            proxy: self.proxy.map(|url| tunnel(url, &tcp(GaiResolver::new(), limit))),
            detour: self.detour,
            home: (self.home.host().to_owned(), self.home.port()),
            own: self.own,
            bounds: self.bounds,
            limit,
        };
        let home = match self.client_certificate.clone() {
            Some(certificate) => {
                let https = https(tls()?.with_client_cert_resolver(certificate), dial.clone());
                Some((self.home.host().to_owned(), https))
            }
            None => None,
        };
        let https = https(tls()?.with_no_client_auth(), dial);
        Ok(Connector { https, home, limit })
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

fn tcp<R>(resolver: R, limit: Duration) -> HttpConnector<R> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_connect_timeout(Some(limit));
    tcp.set_recv_buffer_size(Some(RECEIVE_BUFFER));
    tcp
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

/// Where the registry itself was found to be: what it answered from last, over verified TLS where it has TLS.
#[derive(Debug, Default)]
pub(super) struct OwnAddress(Mutex<Option<IpAddr>>);

impl OwnAddress {
    pub(super) fn new(address: Option<IpAddr>) -> Self {
        Self(Mutex::new(address))
    }

    pub(super) fn get(&self) -> Option<IpAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, address: IpAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

/// TCP under the TLS connector.
#[derive(Debug, Clone)]
struct Dial {
    proxy: Option<Tunnel<HttpConnector>>,
    detour: Option<Detour>,
    /// Host and port of the registry itself: the operator's word, and never judged.
    home: (String, u16),
    own: Arc<OwnAddress>,
    bounds: Arc<Bounds>,
    limit: Duration,
}

impl Dial {
    async fn connect(mut self, uri: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let place = self.detour.as_ref().and_then(|detour| detour.apply(&uri));
        let is_home = self.is_home(&uri);
        let Some(proxy) = &mut self.proxy else {
            let place = place.unwrap_or_else(|| uri.clone());
            if is_home {
                return Ok(tcp(GaiResolver::new(), self.limit).call(place).await?);
            }
            let admitted = self.admitted(&uri, &place).await?;
            return Ok(tcp(admitted, self.limit).call(place).await?);
        };
        if !is_home && place.is_none() {
            let host = host_of(&uri)?;
            self.bounds.admit_unresolved(self.own.get(), host, port_of(&uri))?;
        }
        let place = place.unwrap_or(uri);
        // The tunnel takes 443 for a port that is not written, whatever the scheme.
        let written = format!("http://{}:{}/", place.host().unwrap_or_default(), port_of(&place));
        Ok(proxy.call(written.parse()?).await?)
    }

    fn is_home(&self, uri: &Uri) -> bool {
        let (host, port) = &self.home;
        uri.host().is_some_and(|it| it.eq_ignore_ascii_case(host)) && port_of(uri) == *port
    }

    /// The addresses of `place`, which stands for `uri`, that the registry may lead to.
    async fn admitted(&self, uri: &Uri, place: &Uri) -> Result<Admitted, BoxError> {
        let (host, port) = (host_of(place)?, port_of(place));
        let resolved: Vec<SocketAddr> = match literal(host) {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => {
                let found = GaiResolver::new().call(host.parse::<Name>()?).await?;
                found.map(|address| SocketAddr::new(address.ip(), port)).collect()
            }
        };
        Ok(Admitted(self.bounds.admit(self.own.get(), host_of(uri)?, &resolved)?))
    }
}

/// The host of a URI that can be followed.
fn host_of(uri: &Uri) -> Result<&str, BoxError> {
    let host = uri.host().unwrap_or_default();
    if is_odd_address(host) {
        return Err(Refused::OddAddress { host: host.to_owned() }.into());
    }
    Ok(host)
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.proxy {
            Some(proxy) => proxy.poll_ready(cx).map_err(Into::into),
            None => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// What a name was resolved to and judged as, for the connector, which would resolve it once more.
#[derive(Debug, Clone)]
struct Admitted(Vec<SocketAddr>);

impl Service<Name> for Admitted {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _name: Name) -> Self::Future {
        std::future::ready(Ok(self.0.clone().into_iter()))
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

    /// To where a registry at this address leads that has this name.
    async fn dialled(own: &str, listed: &[&str], uri: &str) -> Result<SocketAddr, String> {
        let listed = listed.iter().map(|text| text.parse().unwrap()).collect();
        let dial = Dial {
            proxy: None,
            detour: None,
            home: ("reg.test".to_owned(), 443),
            own: Arc::new(OwnAddress::new(own.parse().ok())),
            bounds: Arc::new(Bounds::new(Vec::new(), listed)),
            limit: Duration::from_secs(5),
        };
        let connected = dial.connect(uri.parse().unwrap()).await;
        connected.map(|stream| stream.inner().peer_addr().unwrap()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_is_dialled_at_an_address_that_was_judged_and_at_no_other() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let by_name = format!("http://localhost:{}/", address.port());
        let refused = dialled("203.0.113.7", &[], &by_name).await.unwrap_err();
        assert!(
            refused.contains("leads to localhost at ") && refused.contains("a loopback address"),
            "{refused}"
        );
        assert_eq!(dialled("203.0.113.7", &["localhost"], &by_name).await, Ok(address));
        // Of both families only one may be dialled.
        assert_eq!(dialled("203.0.113.7", &["127.0.0.0/8"], &by_name).await, Ok(address));
        assert_eq!(dialled("127.0.0.1", &[], &by_name).await, Ok(address));
    }

    #[tokio::test]
    async fn an_address_is_judged_however_it_is_written() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in
            ["127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0.0.0.0"]
        {
            let refused = dialled("203.0.113.7", &[], &format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(refused.starts_with("leads to "), "{host}: {refused}");
        }
        // What can be read in two ways is followed nowhere.
        let refused = dialled("127.0.0.1", &[], &format!("http://127.1:{port}/")).await.unwrap_err();
        assert!(refused.contains("not written as one"), "{refused}");
    }
}
