//! Upstreams as configured, and the clients that reach their endpoints.
//!
//! An endpoint answers under two names: its own URL and the upstream's public host, which it builds
//! token realms and redirects from. Both are *home*: dialled at the endpoint, with the public host in
//! `Host`, and trusted with the client's credential. Everything else is a stranger.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::settings::{Cap, Offline, ProxyUrl, Weight};
use flotilla_proto::RegistryHost;
use rustls::RootCertStore;

use super::endpoint::{EndpointClient, UnusableEndpoint};

/// One registry as configured: its public host and the endpoints that serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The name in image references, sent as `Host`.
    pub host: RegistryHost,
    /// Those of equal weight share the load; standbys take over.
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

    /// All of them.
    pub(super) fn endpoints(&self) -> &[Arc<EndpointClient>] {
        &self.endpoints
    }

    /// In the order to be asked for `key`: those that seem down last, standbys behind the others, and
    /// these by weighted rendezvous, so that they share the load and each key stays where its tokens
    /// are good: two installations of one registry do not know each other's.
    pub(super) fn in_order(&self, key: &str) -> Vec<Arc<EndpointClient>> {
        let mut endpoints = self.endpoints.clone();
        endpoints.sort_by_cached_key(|endpoint| endpoint.rank(key));
        endpoints
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn dialling() -> Dialling {
        Dialling { roots: RootCertStore::empty(), connect_timeout: Duration::from_secs(1) }
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
        assert_eq!(both.in_order("app").iter().map(|it| it.name()).collect::<Vec<_>>(), ["https://b.test"]);
        let refused = routes(vec![bad]).find(&host).err().unwrap();
        assert_eq!(refused.to_string(), "reg.test cannot be used: its CA holds no certificate");
    }

    #[tokio::test]
    async fn an_unchanged_endpoint_keeps_its_connections_and_a_resting_one_comes_last() {
        let host: RegistryHost = "reg.test".parse().unwrap();
        let endpoint = |url: &&str| Endpoint { standby: *url != "https://a.test", ..Endpoint::new(*url) };
        let upstream = |urls: &[&str]| vec![Upstream::new(host.clone(), urls.iter().map(endpoint).collect())];
        let first = Routes::new(upstream(&["https://a.test"]), &Routes::default(), &dialling());
        let kept = first.find(&host).unwrap().in_order("app").remove(0);
        let second = Routes::new(upstream(&["https://a.test", "https://b.test"]), &first, &dialling());
        let route = second.find(&host).unwrap();
        assert!(Arc::ptr_eq(&route.in_order("app")[0], &kept));
        kept.rest(crate::source::endpoint::REST_AFTER_OUTAGE);
        assert_eq!(route.in_order("app")[0].name(), "https://b.test");
    }

    #[tokio::test]
    async fn an_endpoint_of_which_anything_changed_gets_another_client() {
        let host: RegistryHost = "reg.test".parse().unwrap();
        let plain = Endpoint::new("https://a.test");
        let route = |endpoint: &Endpoint, previous: &Routes| {
            Routes::new(vec![Upstream::new(host.clone(), vec![endpoint.clone()])], previous, &dialling())
        };
        let first = |routes: &Routes| routes.find(&host).unwrap().in_order("app").remove(0);
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

    #[tokio::test]
    async fn endpoints_share_the_load_by_weight_and_standbys_wait() {
        let endpoint = |url: &str, weight: u32, standby| Endpoint {
            weight: weight.try_into().unwrap(),
            standby,
            ..Endpoint::new(url)
        };
        let host: RegistryHost = "reg.test".parse().unwrap();
        let endpoints = vec![
            endpoint("https://s.test", 100, true),
            endpoint("https://a.test", 1, false),
            endpoint("https://b.test", 3, false),
            endpoint("https://t.test", 1, true),
        ];
        let routes =
            Routes::new(vec![Upstream::new(host.clone(), endpoints)], &Routes::default(), &dialling());
        let route = routes.find(&host).unwrap();
        let mut first_a = 0;
        for key in 0..1000 {
            let order = route.in_order(&format!("app/{key}"));
            let names: Vec<&str> = order.iter().map(|endpoint| endpoint.name()).collect();
            assert_eq!(names[2..], ["https://s.test", "https://t.test"]);
            first_a += usize::from(names[0] == "https://a.test");
        }
        assert!((200..300).contains(&first_a), "{first_a}");
        for endpoint in &route.in_order("app")[..2] {
            endpoint.rest(crate::source::endpoint::REST_AFTER_OUTAGE);
        }
        assert_eq!(route.in_order("app")[0].name(), "https://s.test");
    }
}
