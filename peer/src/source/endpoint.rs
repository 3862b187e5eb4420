//! One endpoint of a registry: what is sent to it, what it costs, and whether it seems well.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use flotilla_daemon::registry_tls::ParseCaError;
use flotilla_daemon::settings::Endpoint;
use flotilla_proto::{Digest, RegistryHost};
use http::header::{self, HOST, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpInfo;
use tokio::time::Instant;

use super::body::{self, BodyStream};
use super::bounds::{Bounds, Refused, literal};
use super::caps::Caps;
use super::connect::{self, Connector, Detour, HttpClient, OwnAddress, Reach, port_of};
use super::failure::EndpointFailure;
use super::header as wire;
use super::token_service::Learned;
use super::upstream::Dialling;
use crate::seldom::Seldom;
use crate::via::Pseudonym;

/// One endpoint and its warm connections.
pub(super) struct EndpointClient {
    pub(super) settings: Endpoint,
    /// Its URL, as people know it.
    name: String,
    /// What is read from it at most.
    pub(super) caps: Arc<Caps>,
    public: RegistryHost,
    /// What this cluster calls itself.
    pub(super) pseudonym: Pseudonym,
    scheme: Scheme,
    authority: Authority,
    host_header: HeaderValue,
    connector: Connector,
    /// The pool of warm connections; another one once a connection of it turned out to be dead.
    http: ArcSwap<HttpClient>,
    /// Where it is, and may lead.
    own: Arc<OwnAddress>,
    bounds: Arc<Bounds>,
    /// When it was last told that it led where it may not.
    refusals: Seldom,
    /// Who issues its tokens.
    pub(super) learned: Learned,
    /// Whether it was seen to encode blobs, so that it has no parts to give.
    encodes: AtomicBool,
    /// Until when others are tried first. The lock is held for a load or a store.
    rest: Mutex<Rest>,
}

/// Why an endpoint comes last, and until when.
#[derive(Debug, Default)]
struct Rest {
    /// It seemed down; whoever finds it well again ends that.
    down_until: Option<Instant>,
    /// It sent wrong bytes for this blob, or another did in the same reading.
    wrong: Option<(Instant, Digest)>,
}

impl EndpointClient {
    pub(super) fn new(
        settings: &Endpoint,
        public: &RegistryHost,
        dialling: &Dialling,
    ) -> Result<Self, ParseCaError> {
        let url = &settings.url;
        let (host, port) = (url.host().to_owned(), url.port());
        let known = settings.address.map(|address| address.ip()).or_else(|| literal(url.host()));
        let own = Arc::new(OwnAddress::new(known));
        let detour = settings.address.map(|address| Detour { host, port, address });
        let reach = Reach {
            roots: &dialling.roots,
            ca_pem: settings.ca_pem.as_deref(),
            home: url,
            own: own.clone(),
            bounds: dialling.bounds.clone(),
            client_certificate: dialling.client_certificates.find(public),
            detour,
            proxy: settings.proxy.as_ref(),
            connect_timeout: dialling.connect_timeout,
        };
        let connector = reach.connector()?;
        Ok(Self {
            http: ArcSwap::from_pointee(connect::client(connector.clone())),
            connector,
            settings: settings.clone(),
            name: url.to_string(),
            caps: Arc::new(Caps::new(settings.caps.clone())),
            public: public.clone(),
            pseudonym: dialling.pseudonym.clone(),
            scheme: if url.is_https() { Scheme::HTTPS } else { Scheme::HTTP },
            authority: url.authority().parse().expect("the settings hold no other URL"),
            host_header: HeaderValue::try_from(public.as_str()).expect("a host name is a legal header"),
            own,
            bounds: dialling.bounds.clone(),
            refusals: Seldom::every(REFUSALS_TOLD),
            learned: Learned::default(),
            encodes: AtomicBool::new(false),
            rest: Mutex::default(),
        })
    }

    /// Its URL, as people know it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What [`Route::in_order`](super::upstream::Route::in_order) sorts by.
    pub(super) fn rank(&self, key: &str) -> Rank {
        let weight = u32::from(self.settings.weight);
        let score = flotilla_proto::weighted_score(key.as_bytes(), self.name(), weight);
        Rank {
            is_resting: self.is_resting(),
            wrong_until: self.wrong_until(),
            is_standby: self.settings.standby,
            // The highest score first; standbys have an order of their own.
            score: Reverse(if self.settings.standby { 0 } else { score }),
        }
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

    /// Where a redirect from `from` leads.
    pub(super) fn follow(&self, from: &Uri, headers: &HeaderMap) -> Result<Place, EndpointFailure> {
        let target = wire::location(headers, from).ok_or(EndpointFailure::BadRedirect)?;
        self.led(from, target)
    }

    /// Where to go on to when `from` names `target`; which addresses that may have is judged when it is dialled.
    pub(super) fn led(&self, from: &Uri, target: Uri) -> Result<Place, EndpointFailure> {
        let place = self.place(target);
        let is_downgrade =
            from.scheme() == Some(&Scheme::HTTPS) && place.uri.scheme() != Some(&Scheme::HTTPS);
        if is_downgrade && !self.bounds.admits_clear(&place.uri) {
            let host = place.uri.authority().map_or("", Authority::as_str);
            return Err(self.refused(Refused::Clear { target: format!("http://{host}") }));
        }
        Ok(place)
    }

    /// As [`Self::led`], by the registry itself.
    pub(super) fn leads(&self, target: Uri) -> Result<Place, EndpointFailure> {
        self.led(&self.uri(PathAndQuery::from_static("/")), target)
    }

    /// Tells the operator, too: who asks may fall back to the registry and say nothing.
    fn refused(&self, refused: Refused) -> EndpointFailure {
        if self.refusals.is_due() {
            tracing::warn!(registry = %self.public, endpoint = self.name, "a registry {refused}");
        }
        EndpointFailure::Refused(refused)
    }

    fn is_own(&self, uri: &Uri) -> bool {
        uri.host().is_some_and(|host| host.eq_ignore_ascii_case(self.authority.host()))
            && uri.scheme() == Some(&self.scheme)
            && port_of(uri) == self.settings.url.port()
    }

    /// The scheme does not matter: behind a TLS load balancer registries name themselves `http://`.
    fn is_public(&self, uri: &Uri) -> bool {
        let host = uri.authority().and_then(|authority| authority.as_str().parse::<RegistryHost>().ok());
        host.is_some_and(|host| host == self.public)
    }

    /// The headers of a request that this daemon makes in its own name.
    pub(super) fn own_headers(&self) -> HeaderMap {
        let agent = HeaderValue::from_static(concat!("flotilla/", env!("CARGO_PKG_VERSION")));
        let (accept, plain) = (HeaderValue::from_static("*/*"), HeaderValue::from_static("identity"));
        let (agent, via) = ((header::USER_AGENT, agent), (header::VIA, self.pseudonym.header()));
        [agent, (header::ACCEPT, accept), (header::ACCEPT_ENCODING, plain), via].into_iter().collect()
    }

    /// Sends to `place`; no limit of time beyond connecting.
    ///
    /// Warm connections die together, when what they lead to restarts or what lies between forgets them, and
    /// that says nothing of the endpoint: a request without a body that may be repeated (RFC 9110 §9.2.2)
    /// goes again over a fresh connection, and the stale ones go. One that may not be is sent over a fresh
    /// connection in the first place.
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
        let answer = self.exchange(request).await;
        match answer {
            Ok(response) => {
                let info = response.extensions().get::<HttpInfo>();
                // A proxy's address says nothing of the registry's.
                if let Some(info) = info.filter(|_| place.is_home && self.settings.proxy.is_none()) {
                    self.own.set(info.remote_addr().ip());
                }
                Ok(response)
            }
            Err(EndpointFailure::Refused(refused)) => Err(self.refused(refused)),
            Err(failure) => Err(failure),
        }
    }

    async fn exchange(&self, request: Request<BodyStream>) -> Result<Response<Incoming>, EndpointFailure> {
        if !request.method().is_idempotent() {
            let fresh = connect::client(self.connector.clone());
            return fresh.request(request).await.map_err(EndpointFailure::of_exchange);
        }
        let again = request.body().is_end_stream().then(|| copy(&request));
        let http = self.http.load_full();
        let answer = http.request(request).await.map_err(EndpointFailure::of_exchange);
        let Err(EndpointFailure::Cut(_)) = &answer else { return answer };
        self.renew(&http);
        match again {
            Some(request) => {
                self.http.load_full().request(request).await.map_err(EndpointFailure::of_exchange)
            }
            None => answer,
        }
    }

    /// Leaves the connections of this pool, unless somebody did already.
    fn renew(&self, stale: &Arc<HttpClient>) {
        self.http.compare_and_swap(stale, Arc::new(connect::client(self.connector.clone())));
    }

    /// Its blobs come encoded.
    pub(super) fn is_seen_to_encode(&self) {
        self.encodes.store(true, Ordering::Relaxed);
    }

    /// Whether parts of a blob can be asked of it.
    pub(super) fn gives_parts(&self) -> bool {
        !self.encodes.load(Ordering::Relaxed)
    }

    /// It seems down: others are tried first for a while.
    pub(super) fn seems_down(&self) {
        self.lock().down_until = Some(Instant::now() + REST_AFTER_OUTAGE);
    }

    /// It answers.
    pub(super) fn seems_well(&self) {
        self.lock().down_until = None;
    }

    /// It sent wrong bytes of a blob, or may have: others are tried first for a good while.
    pub(super) fn sent_wrong_bytes(&self, blob: Digest) {
        self.lock().wrong = Some((Instant::now() + REST_AFTER_WRONG_BYTES, blob));
    }

    /// It alone sent the whole blob, and right: if it was this one that it was suspected for, it is not.
    pub(super) fn sent_right_bytes(&self, blob: Digest) {
        self.lock().wrong.take_if(|(_, suspected)| *suspected == blob);
    }

    /// Whether it may have sent wrong bytes lately.
    pub(super) fn is_suspect(&self) -> bool {
        self.wrong_until().is_some()
    }

    fn wrong_until(&self) -> Option<Instant> {
        self.lock().wrong.map(|(until, _)| until).filter(|until| Instant::now() < *until)
    }

    /// Whether it seems down.
    pub(super) fn is_down(&self) -> bool {
        self.lock().down_until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn is_resting(&self) -> bool {
        self.is_down() || self.is_suspect()
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same request, without a body.
fn copy(request: &Request<BodyStream>) -> Request<BodyStream> {
    let mut copy = Request::new(body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The order of endpoints: the least is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    is_resting: bool,
    /// Of those under suspicion the one that was longest ago goes first: one of them is right.
    wrong_until: Option<Instant>,
    is_standby: bool,
    score: Reverse<u64>,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) uri: Uri,
    /// The registry itself, rather than a stranger it named.
    pub(super) is_home: bool,
}

/// A registry that leads where it may not does so for every client.
const REFUSALS_TOLD: Duration = Duration::from_secs(60);
/// After an outage others are tried first this long, unless it is found well before: somewhat longer than
/// it takes to ask again.
const REST_AFTER_OUTAGE: Duration = Duration::from_secs(15);
/// After wrong bytes others are tried first this long.
const REST_AFTER_WRONG_BYTES: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str, public: &str) -> EndpointClient {
        let settings = Endpoint::new(url.parse().unwrap());
        EndpointClient::new(&settings, &public.parse().unwrap(), &Dialling::without_roots()).unwrap()
    }

    #[test]
    fn both_names_of_a_registry_are_home_and_reached_at_the_endpoint() {
        let endpoint = client("https://10.0.0.7:8443", "reg.test");
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
        let endpoint = client("http://10.0.0.7:5000", "reg.test:5000");
        let may = |uri: &str| endpoint.may_see_password(&endpoint.place(uri.parse().unwrap()));
        assert!(may("http://reg.test:5000/token") && may("http://10.0.0.7:5001/token"));
        assert!(may("https://auth.test/token"));
        assert!(!may("http://auth.test/token"));
        let endpoint = client("https://10.0.0.7", "reg.test");
        assert!(!endpoint.may_see_password(&endpoint.place("http://10.0.0.7/token".parse().unwrap())));
    }
}
