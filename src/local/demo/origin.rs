//! What the demo pulls, and the registry it comes from, with the counting hop in front.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytesize::ByteSize;
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
        Ok(Self { image, expected, credentials: None, http, hop, registry: Some(registry) })
    }

    /// An image in a registry that exists.
    pub(crate) async fn existing(image: ImageReference, upstream: Upstream) -> anyhow::Result<Self> {
        let credentials = match &upstream.account {
            Some(account) => Some(ClientCredentials::new(&account.user, &account.password()?)),
            None => None,
        };
        let http = HttpClient::verifying(upstream.ca_pem.as_deref())
            .with_context(|| format!("trust the CA of {}", upstream.host))?;
        let hop = Hop::start(upstream.url, http.clone()).await?;
        Ok(Self { image, expected: None, credentials, http, hop, registry: None })
    }

    /// The registry as the region is to know it: behind the hop. The clients bring their own
    /// credentials, so the seed needs none.
    pub(crate) fn upstream(&self) -> Upstream {
        Upstream { host: self.image.host.clone(), url: self.hop.url(), ca_pem: None, account: None }
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

/// `.test` is reserved (RFC 6761 §6.2): no such registry exists.
const GENERATED_NAME: &str = "demo.test/flotilla/demo:latest";
