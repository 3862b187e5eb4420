//! What the registry client counts.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::RegistryHost;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::order::ReadPurpose;

/// The counters of one [`Source`](super::Source).
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    bytes: Family<BytesLabel, Counter>,
    probe_bytes: Counter,
    confirmation_bytes: Counter,
    requests: Family<RequestLabel, Counter>,
    errors: Family<ErrorLabel, Counter>,
    endpoints_up: Family<EndpointLabel, Gauge>,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "flotilla_peer_source_bytes",
            "Bytes of blob bodies received from registries",
            metrics.bytes.clone(),
        );
        registry.register(
            "flotilla_peer_probe_bytes",
            "Bytes that registries answered to authorisation probes, at most",
            metrics.probe_bytes.clone(),
        );
        registry.register(
            "flotilla_peer_confirmation_bytes",
            "Bytes of blobs that registries delivered to show that they have what others gave",
            metrics.confirmation_bytes.clone(),
        );
        registry.register(
            "flotilla_peer_source_requests",
            "Requests sent to registries",
            metrics.requests.clone(),
        );
        registry.register(
            "flotilla_peer_source_errors",
            "Registry requests that failed",
            metrics.errors.clone(),
        );
        registry.register(
            "flotilla_peer_endpoint_up",
            "Whether an endpoint answered when it was last asked: 1 or 0",
            metrics.endpoints_up.clone(),
        );
        metrics
    }

    /// The counter of blob bytes received for `reader`.
    pub(super) fn blob_bytes(&self, reader: Reader) -> Counter {
        self.bytes.get_or_create(&BytesLabel { reader }).clone()
    }

    pub(super) fn count_probe_bytes(&self, bytes: u64) {
        self.probe_bytes.inc_by(bytes);
    }

    /// For one reading of a blob.
    pub(super) fn received(&self, purpose: ReadPurpose) -> Received {
        let counter = match purpose {
            ReadPurpose::Spread => self.blob_bytes(Reader::Region),
            ReadPurpose::Confirm => self.confirmation_bytes.clone(),
        };
        Received { bytes: Arc::default(), counter }
    }

    pub(super) fn count_request(&self, kind: RequestKind) {
        self.requests.get_or_create(&RequestLabel { kind }).inc();
    }

    pub(super) fn set_endpoint_up(&self, upstream: &RegistryHost, endpoint: &str, is_up: bool) {
        let label = EndpointLabel { upstream: upstream.to_string(), endpoint: endpoint.to_owned() };
        self.endpoints_up.get_or_create(&label).set(is_up.into());
    }

    pub(super) fn count_error(&self, reason: FailureReason) {
        self.errors.get_or_create(&ErrorLabel { reason }).inc();
    }
}

/// Bytes of blob bodies received for one reading.
#[derive(Debug, Clone)]
pub(super) struct Received {
    bytes: Arc<AtomicU64>,
    counter: Counter,
}

impl Received {
    pub(super) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counter.inc_by(bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabel {
    reader: Reader,
}

/// For whom a blob's bytes were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reader {
    /// The region: the bytes are cut into pieces.
    Region,
    /// One client whose request was passed through.
    Client,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    kind: RequestKind,
}

/// Why a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RequestKind {
    /// To read a blob for the region.
    Blob,
    /// To trade a credential for a token.
    Token,
    /// To learn what `/v2/` says without a credential.
    Base,
    /// For a client, passed through.
    Pass,
    /// To ask whether a credential may read.
    Probe,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    upstream: String,
    endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    reason: FailureReason,
}

/// What failed, as coarsely as an operator's alert needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FailureReason {
    /// No connection.
    Connect,
    /// A server that did not prove who it is.
    Tls,
    /// Connected, and no header in time.
    NoHeader,
    /// A body that stood still.
    Stall,
    /// A connection or body that ended early.
    Cut,
    /// A status that answers nothing.
    Status,
    /// A body of another size than the blob's.
    Size,
    /// A body that was compressed.
    Encoding,
    /// A range that is not the one asked for.
    Range,
    /// A redirect that cannot be followed.
    Redirect,
    /// A registry that leads where this seed does not follow.
    Address,
    /// A token service that did not give one.
    Token,
    /// A credential the registry refused.
    Refused,
    /// Too many requests for the registry's taste.
    RateLimit,
    /// Bytes that are not the digest's.
    Digest,
}

/// Names the values as dashboards spell them; the derive would write the variants' names.
macro_rules! label_values {
    ($label:ident { $($variant:ident => $text:literal),+ $(,)? }) => {
        impl EncodeLabelValue for $label {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    };
}
label_values!(RequestKind { Blob => "blob", Token => "token", Base => "base", Pass => "pass", Probe => "probe" });
label_values!(Reader { Region => "region", Client => "client" });
label_values!(FailureReason {
    Connect => "connect",
    Tls => "tls",
    NoHeader => "no_header",
    Stall => "stall",
    Cut => "cut",
    Status => "status",
    Size => "size",
    Encoding => "encoding",
    Range => "range",
    Redirect => "redirect",
    Address => "address",
    Token => "token",
    Refused => "refused",
    RateLimit => "rate_limit",
    Digest => "digest",
});
