//! The clients that reach the endpoints of the configured upstreams.
//!
//! An endpoint answers under two names: its own URL and the upstream's public host, which it builds
//! token realms and redirects from. Both are *home*: dialled at the endpoint, with the public host in
//! `Host`, and trusted with the client's credential. Everything else is a stranger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::registry_tls::ParseCaError;
use flotilla_daemon::settings::Upstream;
use flotilla_proto::RegistryHost;
use rustls::RootCertStore;

use super::bounds::Bounds;
use super::client_certificate::ClientCertificates;
use super::endpoint::EndpointClient;
use crate::via::Pseudonym;

/// Every upstream with its clients; replaced as a whole.
#[derive(Default)]
pub(super) struct Routes(HashMap<RegistryHost, Result<Arc<Route>, ParseCaError>>);

impl Routes {
    /// Clients for these upstreams; those of endpoints that did not change are taken from
    /// `previous`, with their warm connections.
    pub(super) fn new(upstreams: &[Upstream], previous: &Self, dialling: &Dialling) -> Self {
        let route_by_host = upstreams.iter().map(|upstream| {
            let route = Route::new(upstream, previous.0.get(&upstream.host), dialling);
            (upstream.host.clone(), route.map(Arc::new))
        });
        Self(route_by_host.collect())
    }

    /// Every endpoint that can be used, with its registry.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&RegistryHost, &EndpointClient)> {
        let usable = self.0.iter().filter_map(|(host, route)| Some((host, route.as_ref().ok()?)));
        usable.flat_map(|(host, route)| route.endpoints.iter().map(move |endpoint| (host, &**endpoint)))
    }

    pub(super) fn find(&self, host: &RegistryHost) -> Result<Arc<Route>, UpstreamError> {
        match self.0.get(host) {
            Some(Ok(route)) => Ok(Arc::clone(route)),
            Some(Err(reason)) => {
                Err(UpstreamError::Unusable { upstream: host.clone(), reason: reason.clone() })
            }
            None => Err(UpstreamError::Unknown { upstream: host.clone() }),
        }
    }
}

/// What every endpoint's client is made with.
pub(super) struct Dialling {
    pub(super) roots: RootCertStore,
    pub(super) client_certificates: ClientCertificates,
    pub(super) pseudonym: Pseudonym,
    pub(super) connect_timeout: Duration,
    pub(super) bounds: Arc<Bounds>,
}

#[cfg(test)]
impl Dialling {
    /// For clients that connect to nobody.
    pub(super) fn without_roots() -> Self {
        Self {
            roots: RootCertStore::empty(),
            client_certificates: ClientCertificates::default(),
            pseudonym: Pseudonym::of_cluster(b""),
            connect_timeout: Duration::from_secs(1),
            bounds: Arc::default(),
        }
    }
}

/// The way to one upstream.
pub(super) struct Route {
    endpoints: Vec<Arc<EndpointClient>>,
}

impl Route {
    fn new(
        upstream: &Upstream,
        previous: Option<&Result<Arc<Self>, ParseCaError>>,
        dialling: &Dialling,
    ) -> Result<Self, ParseCaError> {
        let known = previous.and_then(|route| route.as_ref().ok()).map_or(&[][..], |it| &it.endpoints);
        let mut endpoints = Vec::new();
        let mut unusable = None;
        for endpoint in &upstream.endpoints {
            if let Some(kept) = known.iter().find(|client| client.settings == *endpoint) {
                endpoints.push(Arc::clone(kept));
                continue;
            }
            match EndpointClient::new(endpoint, &upstream.host, dialling) {
                Ok(client) => endpoints.push(Arc::new(client)),
                Err(reason) => {
                    tracing::warn!(upstream = %upstream.host, endpoint = %endpoint.url, %reason, "endpoint is unusable");
                    unusable = Some(reason);
                }
            }
        }
        match unusable {
            Some(reason) if endpoints.is_empty() => Err(reason),
            _ => Ok(Self { endpoints }),
        }
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
        reason: ParseCaError,
    },
}

#[cfg(test)]
mod tests {
    use flotilla_daemon::settings::{Endpoint, Weight};

    use super::*;

    #[tokio::test]
    async fn one_endpoint_that_cannot_be_used_leaves_the_others() {
        let bad =
            Endpoint { ca_pem: Some("rubbish".into()), ..Endpoint::new("https://a.test".parse().unwrap()) };
        let good = Endpoint::new("https://b.test".parse().unwrap());
        let host: RegistryHost = "reg.test".parse().unwrap();
        let routes = |endpoints| {
            let upstream = Upstream::new(host.clone(), endpoints).unwrap();
            Routes::new(&[upstream], &Routes::default(), &Dialling::without_roots())
        };
        let both = routes(vec![bad.clone(), good]).find(&host).unwrap();
        assert_eq!(both.in_order("app").iter().map(|it| it.name()).collect::<Vec<_>>(), ["https://b.test"]);
        let refused = routes(vec![bad]).find(&host).err().unwrap();
        assert_eq!(refused.to_string(), "reg.test cannot be used: its CA holds no certificate");
    }

    #[tokio::test]
    async fn an_unchanged_endpoint_keeps_its_connections_and_a_resting_one_comes_last() {
        let host: RegistryHost = "reg.test".parse().unwrap();
        let endpoint = |url: &&str| Endpoint {
            standby: *url != "https://a.test",
            ..Endpoint::new(url.parse().unwrap())
        };
        let upstream =
            |urls: &[&str]| vec![Upstream::new(host.clone(), urls.iter().map(endpoint).collect()).unwrap()];
        let first =
            Routes::new(&upstream(&["https://a.test"]), &Routes::default(), &Dialling::without_roots());
        let kept = first.find(&host).unwrap().in_order("app").remove(0);
        let second =
            Routes::new(&upstream(&["https://a.test", "https://b.test"]), &first, &Dialling::without_roots());
        let route = second.find(&host).unwrap();
        assert!(Arc::ptr_eq(&route.in_order("app")[0], &kept));
        kept.seems_down();
        assert_eq!(route.in_order("app")[0].name(), "https://b.test");
    }

    #[tokio::test]
    async fn an_endpoint_of_which_anything_changed_gets_another_client() {
        let host: RegistryHost = "reg.test".parse().unwrap();
        let plain = Endpoint::new("https://a.test".parse().unwrap());
        let other = Endpoint::new("https://b.test".parse().unwrap());
        let route = |endpoint: &Endpoint, previous: &Routes| {
            let endpoints = vec![endpoint.clone(), other.clone()];
            Routes::new(
                &[Upstream::new(host.clone(), endpoints).unwrap()],
                previous,
                &Dialling::without_roots(),
            )
        };
        let first = |routes: &Routes| Arc::clone(&routes.find(&host).unwrap().endpoints[0]);
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
            ..Endpoint::new(url.parse().unwrap())
        };
        let host: RegistryHost = "reg.test".parse().unwrap();
        let endpoints = vec![
            endpoint("https://s.test", 100, true),
            endpoint("https://a.test", 1, false),
            endpoint("https://b.test", 3, false),
            endpoint("https://t.test", 1, true),
        ];
        let routes = Routes::new(
            &[Upstream::new(host.clone(), endpoints).unwrap()],
            &Routes::default(),
            &Dialling::without_roots(),
        );
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
            endpoint.seems_down();
        }
        assert_eq!(route.in_order("app")[0].name(), "https://s.test");
    }
}
