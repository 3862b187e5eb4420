//! The registry client: the only code in a region that talks to a registry.
//!
//! Two ways in. [`Source::read_blob`] reads a blob for the region: every wanted piece once, resumed
//! over cuts, stalls and endpoints, the last piece of a whole blob only after its SHA-256 is right.
//! [`Source::forward`] passes a client's request on as it is, or probes whether its credential may read.
//! Neither follows more than the protocol needs, and there is no way to skip the verification of TLS.
//!
//! What it leaves to others: who may read when (leases), which client gets what (grants), what to do
//! with a wrong blob's pieces (purges).

mod address;
mod ahead;
mod attempts;
mod blob_request;
mod body;
mod bounds;
mod caps;
mod client_certificate;
mod config;
mod connect;
mod content;
mod credential;
mod cutter;
mod encoding;
mod endpoint;
mod failure;
mod forward;
mod header;
mod manifest;
mod metrics;
mod order;
mod provenance;
mod read;
mod roster;
mod token;
mod token_service;
mod trail;
mod upstream;
mod watch;
mod wholes;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_daemon::settings::Upstream;
use flotilla_proto::RegistryHost;
use http::{Request, Response};
use prometheus_client::registry::Registry;
use rustls::RootCertStore;
use tokio::sync::mpsc;
use tokio::sync::watch::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

pub use address::AddressKind;
pub use body::{BodyStream, BoxError};
pub use bounds::{Destination, DestinationError, Refused};
pub use client_certificate::{ClientCertificate, ClientCertificateError};
pub use config::{Robot, SourceConfig};
pub use credential::{Credentials, Offer, PlaceFailure, ReadCredential, RegistryAnswer, Verdict};
pub use encoding::plain_prefix;
pub use failure::{Causes, EndpointFailure};
pub use forward::{ForwardError, NO_TOKEN_SERVICE, Purpose};
pub use order::{ReadError, ReadOrder, ReadPurpose, ReadSummary, SourcePiece};
pub use roster::ReadBy;
pub use upstream::UpstreamError;
pub use watch::{EndpointHealth, EndpointsHealth};

use ahead::AheadBook;
use bounds::Bounds;
use client_certificate::ClientCertificates;
use forward::Forwarding;
use metrics::Metrics;
use read::Reading;
use token::TokenCache;
use upstream::{Dialling, Routes};
use wholes::Wholes;

use crate::via::Pseudonym;

/// A handle on the registry client; clones share connections, tokens and counters.
#[derive(Clone)]
pub struct Source(Arc<Shared>);

struct Shared {
    config: SourceConfig,
    metrics: Metrics,
    tokens: TokenCache,
    dialling: Dialling,
    routes: ArcSwap<Routes>,
    ahead: AheadBook,
    wholes: Wholes,
    /// Of the settings that were last taken in. Receivers are told of changed registries alone.
    settings_revision: Sender<u64>,
    health: Sender<Arc<EndpointsHealth>>,
}

impl Source {
    /// A client that knows no registry yet. Reads the system's root certificates, once.
    ///
    /// # Errors
    /// If a client certificate of the settings cannot be read.
    pub fn new(
        config: SourceConfig,
        own: OwnDaemon,
        metrics: &mut Registry,
    ) -> Result<Self, ClientCertificateError> {
        let dialling = Dialling {
            roots: system_roots(),
            client_certificates: ClientCertificates::load(&config.client_certificates)?,
            pseudonym: own.pseudonym,
            connect_timeout: config.connect_timeout,
            bounds: Arc::new(Bounds::new(own.listeners, config.may_lead_to.clone())),
        };
        Ok(Self(Arc::new(Shared {
            metrics: Metrics::register(metrics),
            tokens: TokenCache::default(),
            dialling,
            routes: ArcSwap::default(),
            ahead: AheadBook::default(),
            wholes: Wholes::default(),
            settings_revision: Sender::default(),
            health: Sender::default(),
            config,
        })))
    }

    /// Warns if the machine has no root certificates. Only a daemon that reads from registries needs them.
    pub fn warn_without_roots(&self) {
        if self.0.dialling.roots.is_empty() {
            tracing::warn!("no system root certificates: only registries with their own CA can be reached");
        }
    }

    /// Replaces the registries it knows. What is under way goes on as it began; endpoints that did not
    /// change keep their connections. One that cannot be used is a warning and an error when asked for.
    pub fn set_upstreams(&self, upstreams: &[Upstream]) {
        let previous = self.0.routes.load();
        self.0.routes.store(Arc::new(Routes::new(upstreams, &previous, &self.0.dialling)));
    }

    /// Settings of this revision were taken in; every endpoint is asked at once if `are_changed`.
    pub fn settings_are(&self, revision: u64, are_changed: bool) {
        self.0.settings_revision.send_if_modified(|known| {
            *known = revision;
            are_changed
        });
    }

    /// What [`Self::watch_endpoints`] finds, each time it has asked.
    pub fn endpoints_health(&self) -> Receiver<Arc<EndpointsHealth>> {
        self.0.health.subscribe()
    }

    /// Asks every endpoint now and then whether it is well. Runs for ever.
    pub async fn watch_endpoints(self) {
        watch::watch(self.0).await;
    }

    /// Sends a request to a registry as the client made it, but for what concerns one connection only and
    /// `Host`, which is the registry's public host. Streams both ways; follows and unpacks nothing.
    ///
    /// A manifest, blob, token or `/v2/` is answered within `header_timeout`, and its body may stand
    /// still for 60 s; anything else may stand still for 900 s.
    ///
    /// # Errors
    /// If the registry is not known, or no endpoint answered. Any answer of a registry is `Ok`.
    pub async fn forward(
        &self,
        upstream: &RegistryHost,
        request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Result<Response<BodyStream>, ForwardError> {
        Forwarding::new(&self.0, upstream, request, purpose).run().await
    }

    /// Reads the wanted pieces in index order into `sink`, which slows the reading down when it is full.
    ///
    /// Each place may give no byte for 9 s before the first one, and for `give_up_after` later, and fail five
    /// times in a row in ways that time does not cure; the error is the last place's. Pieces sent before
    /// an error are as the registry sent them; after [`ReadError::DigestMismatch`] they are worthless.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Panics
    /// If the wanted pieces are of another blob than the layout.
    pub async fn read_blob(
        &self,
        order: ReadOrder,
        sink: mpsc::Sender<SourcePiece>,
        cancel: CancellationToken,
    ) -> Result<ReadSummary, ReadError> {
        let reading = Reading::new(&self.0, order, sink).run();
        cancel.run_until_cancelled(reading).await.unwrap_or(Err(ReadError::Cancelled))
    }
}

/// The daemon that a source is a part of.
#[derive(Debug, Clone)]
pub struct OwnDaemon {
    /// What it calls itself towards registries.
    pub pseudonym: Pseudonym,
    /// Where it listens for TCP, and no registry leads.
    pub listeners: Vec<SocketAddr>,
}

/// The system's roots; none is a warning, for every endpoint may bring its own.
fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "load a system root certificate");
    }
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(added, "system root certificates");
    roots
}
