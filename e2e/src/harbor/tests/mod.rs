//! The rules of §2, each pinned from outside: over TLS, as a client sees them.

mod auth;
mod blobs;
mod client;
mod faults;
mod listing;
mod log;
mod manifests;
mod proxy_cache;
mod push;
mod serve;
mod storage;

use std::net::TcpListener;

use super::*;
use crate::image::ImageSpec;
use client::{Ask, Client, Reply};

/// A Harbor on loopback with the private project `priv`, the public project `pub`, the user
/// `alice` and the robot `robot$x` of the first, and one image in each.
struct Lab {
    harbor: Harbor,
    client: Client,
    /// `priv/app:v1`.
    image: Image,
    /// `pub/app:v1`.
    public: Image,
    _dir: tempfile::TempDir,
}

impl Lab {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (registry, storage) = (listen(), listen());
        let addresses = [registry.local_addr().unwrap(), storage.local_addr().unwrap()];
        let harbor = Harbor::start_on(registry, storage, dir.path()).unwrap();
        let client = Client::new(addresses, harbor.ca());
        harbor.add_project("priv", Access::Private);
        harbor.add_project("pub", Access::Public);
        harbor.add_user("alice", "secret", &["priv"]);
        harbor.add_robot("robot$x", "token", &["priv"]);
        let image = image("priv/app", Format::Oci, 1);
        let public = image_of_docker("pub/app", 2);
        harbor.publish(&image, "v1");
        harbor.publish(&public, "v1");
        Self { harbor, client, image, public, _dir: dir }
    }

    fn ask(&self, ask: Ask) -> Reply {
        self.client.ask(ask)
    }

    /// Asks as the user of the private project.
    fn ask_as_alice(&self, ask: Ask) -> Reply {
        self.ask(ask.basic("alice", "secret"))
    }

    /// A GET of the image's first layer, as that user.
    fn layer(&self) -> Ask {
        Ask::get(blob_path("priv/app", self.image.layers[0].digest())).basic("alice", "secret")
    }

    fn layer_content(&self) -> &[u8] {
        self.image.layers[0].content()
    }
}

fn image(repository: &str, format: Format, seed: u64) -> Image {
    ImageSpec { format, layer_lens: vec![100_000, 10] }.build(repository, seed)
}

fn image_of_docker(repository: &str, seed: u64) -> Image {
    image(repository, Format::Docker, seed)
}

fn blob_path(repository: &str, digest: Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

fn manifest(repository: &str, reference: impl std::fmt::Display) -> Ask {
    Ask::get(format!("/v2/{repository}/manifests/{reference}")).header("accept", OCI_MANIFEST)
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
