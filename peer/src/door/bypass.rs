//! Requests that go past the region, for something besides `Authorization` may say who asks: counted, and told now and
//! then. A blob that is asked for so is read from the registry for its client alone, on every node.

use std::time::Duration;

use flotilla_proto::RegistryHost;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::bare::Besides;
use crate::seldom::Seldom;

/// What went past the region.
pub(crate) struct Bypasses {
    counted: Family<Labels, Counter>,
    /// By kind, so that none keeps another from being told.
    said: [(Kind, Seldom); 4],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Cookie,
    Header,
    Query,
    Body,
}

impl Bypasses {
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let counted = Family::<Labels, Counter>::default();
        metrics.register(
            "flotilla_peer_bypasses",
            "Requests for manifests and blobs that went to the registry alone, by what may be a credential besides Authorization",
            counted.clone(),
        );
        let said = [Kind::Cookie, Kind::Header, Kind::Query, Kind::Body].map(|kind| {
            counted.get_or_create(&Labels { kind }).inc_by(0);
            (kind, Seldom::every(PAUSE))
        });
        Self { counted, said }
    }

    /// A request goes past the region. Only a header's name is told: a value, or a part of a query, may be a secret.
    pub(super) fn note(&self, registry: &RegistryHost, besides: Besides<'_>) {
        let (kind, by) = match besides {
            Besides::Cookie => (Kind::Cookie, "cookie"),
            Besides::Header(name) => (Kind::Header, name.as_str()),
            Besides::Query => (Kind::Query, "its query"),
            Besides::Body => (Kind::Body, "its body"),
        };
        self.counted.get_or_create(&Labels { kind }).inc();
        if self.said.iter().any(|(said, seldom)| *said == kind && seldom.is_due()) {
            tracing::warn!(
                %registry, by,
                "a client goes past the region: what it sends besides Authorization may be a credential"
            );
        }
    }
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Cookie => "cookie",
            Self::Header => "header",
            Self::Query => "query",
            Self::Body => "body",
        };
        label.encode(encoder)
    }
}

/// Clients that do so do it with every request.
const PAUSE: Duration = Duration::from_secs(600);
