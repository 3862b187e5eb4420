//! Upstreams as configured, and the clients that reach their endpoints.
//!
//! An endpoint answers under two names: its own URL and the upstream's public host, which it builds
//! token realms and redirects from. Both are *home*: dialled at the endpoint, with the public host in
//! `Host`, and trusted with the client's credential. Everything else is a stranger.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_daemon::settings::{Cap, Offline, ProxyUrl, Weight};
use flotilla_proto::RegistryHost;
use http::header::{HOST, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use rustls::RootCertStore;
use tokio::time::Instant;

use super::body::BodyStream;
use super::connect::{Detour, HttpClient, ParseCaError, Reach, port_of};
use super::failure::EndpointFailure;
use super::header as wire;
use super::token_service::Learned;

/// One registry as configured: its public host and the endpoints that serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The name in image references, sent as `Host`.
    pub host: RegistryHost,
    /// In the order they are tried.
    pub endpoints: Vec<Endpoint>,
    /// Whether no byte of a blob goes out before its SHA-256 is right.
    pub releases_verified: bool,
    /// Whether it fills itself from another registry.
    pub proxy_cache: bool,
    /// Whether every full GET of a manifest is forwarded.
    pub count_pulls: bool,
    /// What is served while it is unreachable.
    pub offline: Offline,
}

impl Upstream {
    /// A registry about which nothing but its endpoints is said.
    pub fn new(host: RegistryHost, endpoints: Vec<Endpoint>) -> Self {
        Self {
            host,
            endpoints,
            releases_verified: false,
            proxy_cache: false,
            count_pulls: true,
            offline: Offline::default(),
        }
    }
}

/// One address that serves an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host[:port]`, or `http://` where the operator accepts clear text.
    pub url: String,
    /// Certificates trusted besides the system's.
    pub ca_pem: Option<String>,
    /// Dialled in place of the URL's host.
    pub address: Option<SocketAddr>,
    /// Its share of the load.
    pub weight: Weight,
    /// Whether it is asked only while the others fail.
    pub standby: bool,
    /// What it is reached through.
    pub proxy: Option<ProxyUrl>,
    /// What is read from it at most; which holds when, [`Cap::in_force`] says.
    pub caps: Vec<Cap>,
}

impl Endpoint {
    /// An endpoint about which nothing but its URL is said.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_pem: None,
            address: None,
            weight: Weight::default(),
            standby: false,
            proxy: None,
            caps: Vec::new(),
        }
    }
}

/// Every upstream with its clients; replaced as a whole.
#[derive(Default)]
pub(super) struct Routes(HashMap<RegistryHost, Result<Arc<Route>, UnusableEndpoint>>);

impl Routes {
    /// Clients for these upstreams; those of endpoints that did not change are taken from
    /// `previous`, with their warm connections.
    pub(super) fn new(upstreams: Vec<Upstream>, previous: &Self, dialling: &Dialling) -> Self {
        let route_by_host = upstreams.into_iter().map(|upstream| {
            let route = Route::new(&upstream, previous.0.get(&upstream.host), dialling);
            (upstream.host, route.map(Arc::new))
        });
        Self(route_by_host.collect())
    }

    pub(super) fn find(&self, host: &RegistryHost) -> Result<Arc<Route>, UpstreamError> {
        match self.0.get(host) {
            Some(Ok(route)) => Ok(Arc::clone(route)),
            Some(Err(reason)) => Err(UpstreamError::Unusable { upstream: host.clone(), reason: *reason }),
            None => Err(UpstreamError::Unknown { upstream: host.clone() }),
        }
    }
}

/// What every endpoint's client is made with.
pub(super) struct Dialling {
    pub(super) roots: RootCertStore,
    pub(super) connect_timeout: Duration,
}

/// The way to one upstream.
pub(super) struct Route {
    endpoints: Vec<Arc<EndpointClient>>,
}

impl Route {
    fn new(
        upstream: &Upstream,
        previous: Option<&Result<Arc<Self>, UnusableEndpoint>>,
        dialling: &Dialling,
    ) -> Result<Self, UnusableEndpoint> {
        let known = previous.and_then(|route| route.as_ref().ok()).map_or(&[][..], |it| &it.endpoints);
        let mut endpoints = Vec::new();
        let mut unusable = UnusableEndpoint::NoEndpoint;
        for endpoint in &upstream.endpoints {
            if let Some(kept) = known.iter().find(|client| client.settings == *endpoint) {
                endpoints.push(Arc::clone(kept));
                continue;
            }
            match EndpointClient::new(endpoint, &upstream.host, dialling) {
                Ok(client) => endpoints.push(Arc::new(client)),
                Err(reason) => {
                    tracing::warn!(upstream = %upstream.host, endpoint = endpoint.url, %reason, "endpoint is unusable");
                    unusable = reason;
                }
            }
        }
        if endpoints.is_empty() { Err(unusable) } else { Ok(Self { endpoints }) }
    }

    /// In configured order, those that seem down last.
    pub(super) fn in_order(&self) -> Vec<Arc<EndpointClient>> {
        let mut endpoints = self.endpoints.clone();
        endpoints.sort_by_cached_key(|endpoint| endpoint.is_resting());
        endpoints
    }
}

/// One endpoint and its warm connections.
pub(super) struct EndpointClient {
    settings: Endpoint,
    public: RegistryHost,
    scheme: Scheme,
    authority: Authority,
    port: u16,
    host_header: HeaderValue,
    http: HttpClient,
    /// Who issues its tokens.
    pub(super) learned: Learned,
    /// Until when others are tried first. The lock is held for a load or a store.
    resting_until: Mutex<Option<Instant>>,
}

impl EndpointClient {
    fn new(
        settings: &Endpoint,
        public: &RegistryHost,
        dialling: &Dialling,
    ) -> Result<Self, UnusableEndpoint> {
        let url: Uri = settings.url.parse().map_err(|_| UnusableEndpoint::Url)?;
        let parts = url.clone().into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(UnusableEndpoint::Url);
        };
        let is_http = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        let is_root = matches!(url.path(), "" | "/") && url.query().is_none();
        if !is_http || !is_root || authority.as_str().contains('@') {
            return Err(UnusableEndpoint::Url);
        }
        let port = port_of(&url);
        let detour =
            settings.address.map(|address| Detour { host: authority.host().to_owned(), port, address });
        let reach = Reach {
            roots: &dialling.roots,
            ca_pem: settings.ca_pem.as_deref(),
            detour,
            connect_timeout: dialling.connect_timeout,
        };
        Ok(Self {
            settings: settings.clone(),
            public: public.clone(),
            scheme,
            authority,
            port,
            host_header: HeaderValue::try_from(public.as_str()).expect("a host name is a legal header"),
            http: reach.client()?,
            learned: Learned::default(),
            resting_until: Mutex::new(None),
        })
    }

    /// Its URL, as people know it.
    pub(super) fn name(&self) -> &str {
        &self.settings.url
    }

    /// A path at this endpoint.
    pub(super) fn uri(&self, path: PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("all three parts are there")
    }

    /// Where to send a request for `uri`, and whether that is this registry itself.
    pub(super) fn place(&self, uri: Uri) -> Place {
        if !self.is_own(&uri) && !self.is_public(&uri) {
            return Place { uri, is_home: false };
        }
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Place { uri: self.uri(path), is_home: true }
    }

    /// Whether a Basic credential may go to a token service at `realm`: this registry's own machine,
    /// or anyone the registry names and TLS proves.
    pub(super) fn may_see_password(&self, realm: &Place) -> bool {
        let is_own_host =
            realm.uri.host().is_some_and(|host| host.eq_ignore_ascii_case(self.authority.host()));
        let is_clear_anyway = is_own_host && self.scheme == Scheme::HTTP;
        realm.is_home || is_clear_anyway || realm.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether following `from` to `to` would leave TLS.
    fn is_downgrade(from: &Uri, to: &Uri) -> bool {
        from.scheme() == Some(&Scheme::HTTPS) && to.scheme() != Some(&Scheme::HTTPS)
    }

    /// Where a redirect from `from` leads.
    pub(super) fn follow(&self, from: &Uri, headers: &HeaderMap) -> Result<Place, EndpointFailure> {
        let target = wire::location(headers, from).ok_or(EndpointFailure::BadRedirect)?;
        let place = self.place(target);
        if Self::is_downgrade(from, &place.uri) {
            return Err(EndpointFailure::Downgrade);
        }
        Ok(place)
    }

    fn is_own(&self, uri: &Uri) -> bool {
        uri.host().is_some_and(|host| host.eq_ignore_ascii_case(self.authority.host()))
            && uri.scheme() == Some(&self.scheme)
            && port_of(uri) == self.port
    }

    /// The scheme does not matter: behind a TLS load balancer registries name themselves `http://`.
    fn is_public(&self, uri: &Uri) -> bool {
        let host = uri.authority().and_then(|authority| authority.as_str().parse::<RegistryHost>().ok());
        host.is_some_and(|host| host == self.public)
    }

    /// Sends to `place`; no limit of time beyond connecting.
    pub(super) async fn send(
        &self,
        place: Place,
        mut request: Request<BodyStream>,
    ) -> Result<Response<Incoming>, EndpointFailure> {
        if place.is_home {
            request.headers_mut().insert(HOST, self.host_header.clone());
        } else {
            request.headers_mut().remove(HOST);
        }
        *request.uri_mut() = place.uri;
        self.http.request(request).await.map_err(EndpointFailure::of_exchange)
    }

    /// Others are tried first for a while.
    pub(super) fn rest(&self, period: Duration) {
        *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + period);
    }

    pub(super) fn is_resting(&self) -> bool {
        let until = self.resting_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) uri: Uri,
    /// The registry itself, rather than a stranger it named.
    pub(super) is_home: bool,
}

/// The headers of a request that this daemon makes in its own name.
pub(super) fn own_headers() -> HeaderMap {
    let agent = HeaderValue::from_static(concat!("flotilla/", env!("CARGO_PKG_VERSION")));
    let accept = HeaderValue::from_static("*/*");
    [(http::header::USER_AGENT, agent), (http::header::ACCEPT, accept), (http::header::VIA, VIA)]
        .into_iter()
        .collect()
}

/// What every request to a registry carries.
pub(super) const VIA: HeaderValue = HeaderValue::from_static("1.1 flotilla");

/// After an outage others are tried first this long.
pub(super) const REST_AFTER_OUTAGE: Duration = Duration::from_secs(10);
/// After wrong bytes others are tried first this long.
pub(super) const REST_AFTER_WRONG_BYTES: Duration = Duration::from_secs(300);

/// Why there is no way to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Not configured.
    #[error("{upstream} is not a configured registry")]
    Unknown {
        /// The registry asked for.
        upstream: RegistryHost,
    },
    /// Configured, and none of its endpoints can be used.
    #[error("{upstream} cannot be used: {reason}")]
    Unusable {
        /// The registry asked for.
        upstream: RegistryHost,
        /// What is wrong with its last endpoint.
        reason: UnusableEndpoint,
    },
}

/// Why an endpoint cannot be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableEndpoint {
    /// There is none.
    #[error("it has no endpoint")]
    NoEndpoint,
    /// The URL is not a registry's.
    #[error("its URL does not read http(s)://host[:port]")]
    Url,
    /// The CA does not parse.
    #[error(transparent)]
    Ca(#[from] ParseCaError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialling() -> Dialling {
        Dialling { roots: RootCertStore::empty(), connect_timeout: Duration::from_secs(1) }
    }

    fn client(url: &str, public: &str) -> Result<EndpointClient, UnusableEndpoint> {
        let settings = Endpoint::new(url);
        EndpointClient::new(&settings, &public.parse().unwrap(), &dialling())
    }

    #[test]
    fn both_names_of_a_registry_are_home_and_reached_at_the_endpoint() {
        let endpoint = client("https://10.0.0.7:8443", "reg.test").unwrap();
        for uri in [
            "https://reg.test/t?a=1",
            "http://reg.test/t?a=1",
            "https://REG.test:443/t?a=1",
            "https://10.0.0.7:8443/t?a=1",
        ] {
            let place = endpoint.place(uri.parse().unwrap());
            assert!(place.is_home, "{uri}");
            assert_eq!(place.uri, "https://10.0.0.7:8443/t?a=1");
        }
        for uri in [
            "https://s3.test/b",
            "https://10.0.0.7/b",
            "http://10.0.0.7:8443/b",
            "https://reg.test:444/b",
            "https://reg.test@s3.test/b",
        ] {
            let place = endpoint.place(uri.parse().unwrap());
            assert!(!place.is_home, "{uri}");
            assert_eq!(place.uri, uri);
        }
    }

    #[test]
    fn a_password_never_goes_to_a_stranger_in_clear() {
        let endpoint = client("http://10.0.0.7:5000", "reg.test:5000").unwrap();
        let may = |uri: &str| endpoint.may_see_password(&endpoint.place(uri.parse().unwrap()));
        assert!(may("http://reg.test:5000/token") && may("http://10.0.0.7:5001/token"));
        assert!(may("https://auth.test/token"));
        assert!(!may("http://auth.test/token"));
        let endpoint = client("https://10.0.0.7", "reg.test").unwrap();
        assert!(!endpoint.may_see_password(&endpoint.place("http://10.0.0.7/token".parse().unwrap())));
    }

    #[test]
    fn an_endpoint_is_a_root_of_http() {
        for url in [
            "ftp://reg.test",
            "reg.test",
            "https://reg.test/harbor",
            "https://u:p@reg.test",
            "https://",
            "https://a?b",
        ] {
            assert_eq!(client(url, "reg.test").err(), Some(UnusableEndpoint::Url), "{url}");
        }
    }

    #[tokio::test]
    async fn one_endpoint_that_cannot_be_used_leaves_the_others() {
        let bad = Endpoint { ca_pem: Some("rubbish".into()), ..Endpoint::new("https://a.test") };
        let good = Endpoint::new("https://b.test");
        let host: RegistryHost = "reg.test".parse().unwrap();
        let routes = |endpoints| {
            let upstream = Upstream::new(host.clone(), endpoints);
            Routes::new(vec![upstream], &Routes::default(), &dialling())
        };
        let both = routes(vec![bad.clone(), good]).find(&host).unwrap();
        assert_eq!(both.in_order().iter().map(|it| it.name()).collect::<Vec<_>>(), ["https://b.test"]);
        let refused = routes(vec![bad]).find(&host).err().unwrap();
        assert_eq!(refused.to_string(), "reg.test cannot be used: its CA holds no certificate");
    }

    #[tokio::test]
    async fn an_unchanged_endpoint_keeps_its_connections_and_a_resting_one_comes_last() {
        let host: RegistryHost = "reg.test".parse().unwrap();
        let upstream = |urls: &[&str]| {
            vec![Upstream::new(host.clone(), urls.iter().map(|url| Endpoint::new(*url)).collect())]
        };
        let first = Routes::new(upstream(&["https://a.test"]), &Routes::default(), &dialling());
        let kept = first.find(&host).unwrap().in_order().remove(0);
        let second = Routes::new(upstream(&["https://a.test", "https://b.test"]), &first, &dialling());
        let route = second.find(&host).unwrap();
        assert!(Arc::ptr_eq(&route.in_order()[0], &kept));
        kept.rest(REST_AFTER_OUTAGE);
        assert_eq!(route.in_order()[0].name(), "https://b.test");
    }

    #[tokio::test]
    async fn an_endpoint_of_which_anything_changed_gets_another_client() {
        let host: RegistryHost = "reg.test".parse().unwrap();
        let plain = Endpoint::new("https://a.test");
        let route = |endpoint: &Endpoint, previous: &Routes| {
            Routes::new(vec![Upstream::new(host.clone(), vec![endpoint.clone()])], previous, &dialling())
        };
        let first = |routes: &Routes| routes.find(&host).unwrap().in_order().remove(0);
        for changed in [
            Endpoint { weight: Weight::MAX, ..plain.clone() },
            Endpoint { standby: true, ..plain.clone() },
            Endpoint { proxy: Some("http://proxy.test".parse().unwrap()), ..plain.clone() },
            Endpoint { caps: vec!["50 MB".parse().unwrap()], ..plain.clone() },
        ] {
            let before = route(&plain, &Routes::default());
            let after = route(&changed, &before);
            assert!(!Arc::ptr_eq(&first(&before), &first(&after)), "{changed:?}");
        }
    }
}
