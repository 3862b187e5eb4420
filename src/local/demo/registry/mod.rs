//! The registry that holds the generated image: Debian's `docker-registry` where it is
//! installed, a small one of our own elsewhere.

mod built_in;
mod docker_registry;
mod push;
mod range;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::generate::GeneratedImage;
use crate::oci_client::ImageReference;
use built_in::BuiltInRegistry;
use docker_registry::DockerRegistry;

/// A running registry that holds one image.
pub(crate) enum Registry {
    /// A child process.
    Docker(Box<DockerRegistry>),
    /// A server in this process.
    BuiltIn(BuiltInRegistry),
}

impl Registry {
    /// Starts one, and puts `image` into it under `name`. `home` is for its files.
    pub(crate) async fn start(
        image: Arc<GeneratedImage>,
        name: &ImageReference,
        home: &Path,
    ) -> anyhow::Result<Self> {
        let Some(executable) = docker_registry::find() else {
            return Self::built_in(image, name).await;
        };
        let registry = DockerRegistry::start(&executable, home).await.context("start docker-registry")?;
        let pushed = push::push(&image, name, registry.url()).await;
        match pushed {
            Ok(()) => Ok(Self::Docker(Box::new(registry))),
            Err(error) => {
                registry.stop().await;
                Err(error).context("push the image to docker-registry")
            }
        }
    }

    /// The built-in one.
    pub(crate) async fn built_in(image: Arc<GeneratedImage>, name: &ImageReference) -> anyhow::Result<Self> {
        let registry = BuiltInRegistry::start(image, name).await;
        registry.map(Self::BuiltIn).context("start the built-in registry")
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Docker(registry) => registry.url().to_owned(),
            Self::BuiltIn(registry) => registry.url(),
        }
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Docker(_) => "docker-registry",
            Self::BuiltIn(_) => "the built-in registry",
        }
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        match self {
            Self::Docker(registry) => registry.stop().await,
            Self::BuiltIn(registry) => registry.stop().await,
        }
    }
}
