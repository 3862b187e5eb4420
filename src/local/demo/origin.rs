//! What the demo pulls, and the registry it comes from, with the counting hop in front.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytesize::ByteSize;
use flotilla_daemon::settings::{self, Endpoint};
use flotilla_proto::Digest;

use super::generate::{GeneratedImage, generate};
use super::hop::Hop;
use super::registry::Registry;
use crate::http::HttpClient;
use crate::local::registry::Upstream;
use crate::oci_client::{ClientCredentials, ImageReference, PulledImage};

/// An image, and a way to it that counts.
pub(crate) struct Origin {
    /// Its name.
    pub(crate) image: ImageReference,
    /// What clients must get, where that is known before.
    pub(crate) expected: Option<PulledImage>,
    /// Whom the registry knows.
    pub(crate) credentials: Option<ClientCredentials>,
    /// What clients use: it trusts the registry's CA, for a token service beside it.
    pub(crate) http: HttpClient,
    /// In front of the registry.
    pub(crate) hop: Hop,
    /// The registry as the region is to know it: behind the hop.
    settings: settings::Upstream,
    /// The image's registry where it is the demo's own.
    registry: Option<Registry>,
}

impl Origin {
    /// An image of this size, in a registry of the demo's own; files go to `home`.
    pub(crate) async fn generated(size: ByteSize, layers: u16, home: &Path) -> anyhow::Result<Self> {
        let image: ImageReference = GENERATED_NAME.parse().expect("the name is well formed");
        let blobs = home.join("blobs");
        std::fs::create_dir_all(&blobs).context("make a directory for the image")?;
        let generated = tokio::task::spawn_blocking(move || generate(size, layers, &blobs)).await;
        let generated = Arc::new(generated.expect("generating does not panic")?);
        let registry = Registry::start(Arc::clone(&generated), &image, home).await?;
        Self::of(image, &generated, registry).await
    }

    /// The generated image that this registry holds under this name.
    pub(crate) async fn of(
        image: ImageReference,
        generated: &GeneratedImage,
        registry: Registry,
    ) -> anyhow::Result<Self> {
        let http = HttpClient::loopback();
        let hop = match Hop::start(registry.url(), http.clone()).await {
            Ok(hop) => hop,
            Err(error) => {
                registry.stop().await;
                return Err(error);
            }
        };
        let manifest = Digest::of(&generated.manifest);
        let expected = Some(PulledImage { manifest, blobs: generated.blobs.clone() });
        let settings = settings::Upstream::new(image.host.clone(), vec![endpoint_at(&hop)]);
        let settings = settings.expect("its endpoint is no standby");
        Ok(Self { image, expected, credentials: None, http, hop, settings, registry: Some(registry) })
    }

    /// An image in a registry that exists.
    pub(crate) async fn existing(image: ImageReference, upstream: Upstream) -> anyhow::Result<Self> {
        let credentials = match &upstream.account {
            Some(account) => Some(ClientCredentials::new(&account.user, &account.password()?)),
            None => None,
        };
        let endpoint = &upstream.settings.endpoints[0];
        ensure!(
            endpoint.address.is_none() && endpoint.proxy.is_none(),
            "the demo counts what its registry sends: it takes neither address= nor proxy="
        );
        let http = HttpClient::verifying(endpoint.ca_pem.as_deref())
            .with_context(|| format!("trust the CA of {}", upstream.settings.host))?;
        let hop = Hop::start(endpoint.url.to_string(), http.clone()).await?;
        let behind_hop = Endpoint { caps: endpoint.caps.clone(), ..endpoint_at(&hop) };
        let settings = settings::Upstream { endpoints: vec![behind_hop], ..upstream.settings };
        Ok(Self { image, expected: None, credentials, http, hop, settings, registry: None })
    }

    /// The registry as the region is to know it: behind the hop. The clients bring their own
    /// credentials, so the seed needs none.
    pub(crate) fn upstream(&self) -> Upstream {
        Upstream { settings: self.settings.clone(), account: None }
    }

    /// Where the image is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        self.registry.as_ref().map_or("its registry", Registry::kind)
    }

    /// Ends what was started.
    pub(crate) async fn stop(self) {
        self.hop.stop().await;
        if let Some(registry) = self.registry {
            registry.stop().await;
        }
    }
}

fn endpoint_at(hop: &Hop) -> Endpoint {
    Endpoint::new(hop.url().parse().expect("a server's own URL is well formed"))
}

/// `.test` is reserved (RFC 6761 §6.2): no such registry exists.
const GENERATED_NAME: &str = "demo.test/flotilla/demo:latest";
