//! Registries as they are shown. For scripts every key is there; for people what differs from
//! the defaults, as `registry set` and `up --registry` take it.

use flotilla_daemon::settings::{Endpoint, Offline, Upstream, Weight};
use flotilla_proto::wire::manager as wire;
use serde::Serialize;

use super::super::output::{or_dash, time};

#[derive(Debug, Serialize)]
pub(in super::super) struct RegistryView {
    pub(in super::super) host: String,
    release: String,
    proxy_cache: bool,
    count_pulls: bool,
    offline: &'static str,
    /// How much longer grants live; `None` where nothing is served.
    offline_for: Option<String>,
    grants: String,
    /// `None` where it shares trust with no other.
    trust: Option<String>,
    pub(in super::super) endpoints: Vec<EndpointView>,
}

#[derive(Debug, Serialize)]
pub(in super::super) struct EndpointView {
    pub(in super::super) url: String,
    ca_pem: Option<String>,
    pub(in super::super) address: Option<String>,
    weight: u32,
    standby: bool,
    proxy: Option<String>,
    limits: Vec<String>,
    /// As each seed finds it.
    pub(in super::super) health: Vec<HealthView>,
}

/// How one seed finds an endpoint.
#[derive(Debug, Serialize)]
pub(in super::super) struct HealthView {
    pub(in super::super) seed: String,
    pub(in super::super) up: bool,
    since: Option<String>,
    reason: Option<String>,
}

impl HealthView {
    /// As in `down since 2026-12-02T23:20:14Z (seed-0: connection refused)`.
    pub(in super::super) fn sentence(&self) -> String {
        let state = if self.up { "up" } else { "down" };
        let since = or_dash(self.since.as_deref());
        let why = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{state} since {since} ({}{why})", self.seed)
    }
}

impl From<&wire::EndpointHealth> for HealthView {
    fn from(health: &wire::EndpointHealth) -> Self {
        let reason = (!health.up).then(|| health.reason.clone());
        Self { seed: health.seed.clone(), up: health.up, since: time(health.since), reason }
    }
}

impl RegistryView {
    pub(super) const HEADINGS: [&'static str; 6] =
        ["host", "endpoint", "ca", "address", "of the endpoint", "of the registry"];

    /// A row for each endpoint.
    pub(super) fn rows(&self) -> impl Iterator<Item = [String; 6]> {
        let options = or_dash(Some(&self.options()));
        self.endpoints.iter().map(move |endpoint| {
            let ca = if endpoint.ca_pem.is_some() { "own" } else { "system" };
            [
                self.host.clone(),
                endpoint.url.clone(),
                ca.to_owned(),
                or_dash(endpoint.address.as_deref()),
                or_dash(Some(&endpoint.options())),
                options.clone(),
            ]
        })
    }

    /// What differs from the defaults.
    pub(in super::super) fn options(&self) -> String {
        let offline_for = self.offline_for.as_ref().filter(|longer| *longer != "0s");
        said([
            (self.release != "streaming").then(|| format!("release={}", self.release)),
            self.proxy_cache.then(|| "proxy-cache".to_owned()),
            (!self.count_pulls).then(|| "count-pulls=false".to_owned()),
            (self.offline != "refuse").then(|| format!("offline={}", self.offline)),
            offline_for.map(|longer| format!("offline-for={longer}")),
            (self.grants != "cached").then(|| format!("grants={}", self.grants)),
            self.trust.as_ref().map(|trust| format!("trust={trust}")),
        ])
    }
}

impl EndpointView {
    /// Down, where any seed finds it down; else up; nothing where nobody has said.
    pub(in super::super) fn state(&self) -> String {
        let down = self.health.iter().find(|health| !health.up);
        down.or(self.health.first()).map(HealthView::sentence).unwrap_or_default()
    }

    /// What differs from the defaults, CA and address apart.
    pub(in super::super) fn options(&self) -> String {
        let limits = self.limits.iter().map(|limit| Some(format!("limit={limit}")));
        let first = [
            (self.weight != u32::from(Weight::default())).then(|| format!("weight={}", self.weight)),
            self.standby.then(|| "standby".to_owned()),
            self.proxy.as_ref().map(|proxy| format!("proxy={proxy}")),
        ];
        said(first.into_iter().chain(limits))
    }
}

impl From<Upstream> for RegistryView {
    fn from(upstream: Upstream) -> Self {
        let (offline, longer) = match upstream.offline {
            Offline::Refuse => ("refuse", None),
            Offline::Granted { longer } => ("granted", Some(longer)),
        };
        Self {
            host: upstream.host.to_string(),
            release: upstream.release.to_string(),
            proxy_cache: upstream.proxy_cache,
            count_pulls: upstream.count_pulls,
            offline,
            offline_for: longer.map(|longer| humantime::format_duration(longer).to_string()),
            grants: upstream.grants.to_string(),
            trust: upstream.trust.map(String::from),
            endpoints: upstream.endpoints.into_iter().map(EndpointView::from).collect(),
        }
    }
}

impl From<Endpoint> for EndpointView {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            url: endpoint.url.to_string(),
            ca_pem: endpoint.ca_pem,
            address: endpoint.address.map(|address| address.to_string()),
            weight: endpoint.weight.into(),
            standby: endpoint.standby,
            proxy: endpoint.proxy.map(|proxy| proxy.to_string()),
            limits: endpoint.caps.iter().map(ToString::to_string).collect(),
            health: Vec::new(),
        }
    }
}

fn said(options: impl IntoIterator<Item = Option<String>>) -> String {
    options.into_iter().flatten().collect::<Vec<_>>().join(",")
}
