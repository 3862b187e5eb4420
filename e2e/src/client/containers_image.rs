//! skopeo, buildah and podman: one library, three programs. All settings are files and
//! flags of the one process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_proto::Digest;
use serde::Deserialize;
use serde_json::Value;

use super::{Client, FrontDoor, PULL_TIMEOUT, Pull, digests};
use crate::process;
use crate::stage::{REGISTRY_HOST, Side};

/// Pulls with the program that the pull names.
pub(super) fn pull(pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
    match pull.client {
        Client::Skopeo => skopeo_copy(pull),
        Client::Buildah => buildah_pull(pull),
        Client::Podman => podman_pull(pull),
        Client::Docker | Client::Ctr => bail!("{:?} pulls by its daemon", pull.client),
    }
}

/// `skopeo copy` into a directory; what lies there is hashed anew.
fn skopeo_copy(pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
    let dir = pull.stage.dir(pull.dir())?;
    let image = dir.join("image");
    let mut command = pull.stage.command(Side::Client, "skopeo");
    if pull.front_door == FrontDoor::Mirror {
        command.arg("--registries-conf").arg(write_registries(pull, &dir)?);
    }
    command.arg("copy");
    match (pull.front_door, pull.credentials) {
        (_, None) => {}
        (FrontDoor::Proxy | FrontDoor::Prefix, Some(credentials)) => {
            command.args(["--src-creds", credentials]);
        }
        // Credentials given by a flag are for the registry and go to no mirror.
        (FrontDoor::Mirror, Some(_)) => {
            command.arg("--src-authfile").args(pull.write_login(&dir)?);
        }
    }
    match pull.front_door {
        FrontDoor::Proxy => {
            fs::create_dir(dir.join("certs"))?;
            fs::copy(&pull.peer.ca, dir.join("certs/ca.crt")).context("copy the peer's CA")?;
            command.env("HTTPS_PROXY", &pull.peer.door).arg("--src-cert-dir").arg(dir.join("certs"));
        }
        FrontDoor::Mirror => {}
        FrontDoor::Prefix => {
            command.arg("--src-tls-verify=false");
        }
    }
    command.arg(format!("docker://{}", pull.reference())).arg(format!("dir:{}", image.display()));
    process::run(&pull.stage.logs(), &pull.name("skopeo"), command, PULL_TIMEOUT)?.success()?;
    digests_of_files(&image)
}

/// `buildah pull`.
fn buildah_pull(pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        from_image_digest: String,
        #[serde(rename = "FromImageID")]
        from_image_id: String,
        #[serde(rename = "OCIv1")]
        oci: Value,
    }
    run(pull, "buildah", &["pull", &pull.reference()])?;
    let json = run(pull, "buildah", &["inspect", "--type", "image", &pull.reference()])?;
    let image: Inspected = serde_json::from_str(&json).context("read inspect")?;
    let layers = image.oci["rootfs"]["diff_ids"].as_array().context("no diff ids")?;
    let layers = layers.iter().filter_map(Value::as_str);
    let config = format!("sha256:{}", image.from_image_id);
    digests([image.from_image_digest.as_str(), &config].into_iter().chain(layers))
}

/// `podman pull`.
fn podman_pull(pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        id: String,
        digest: String,
        #[serde(rename = "RootFS")]
        root_fs: Value,
    }
    run(pull, "podman", &["pull", &pull.reference()])?;
    let json = run(pull, "podman", &["image", "inspect", &pull.reference()])?;
    let [image]: [Inspected; 1] = serde_json::from_str(&json).context("read inspect")?;
    let layers = image.root_fs["Layers"].as_array().context("no layers")?;
    let layers = layers.iter().filter_map(Value::as_str);
    let config = format!("sha256:{}", image.id);
    digests([image.digest.as_str(), &config].into_iter().chain(layers))
}

/// Runs buildah or podman over a storage of this pull's own.
fn run(pull: &Pull<'_>, program: &str, arguments: &[&str]) -> Result<String> {
    ensure!(
        pull.front_door == FrontDoor::Mirror,
        "no story pulls through {:?} with {program}",
        pull.front_door
    );
    let dir = pull.stage.dir(pull.dir())?;
    let mut command: Command = pull.stage.command(Side::Client, program);
    command.env("CONTAINERS_REGISTRIES_CONF", write_registries(pull, &dir)?);
    command.args(["--storage-driver", "vfs", "--root"]).arg(dir.join("root"));
    command.arg("--runroot").arg(dir.join("runroot"));
    if let Some(login) = pull.write_login(&dir)? {
        command.env("REGISTRY_AUTH_FILE", login);
    }
    command.args(arguments);
    let name = pull.name(&format!("{program}-{}", arguments[0]));
    process::run(&pull.stage.logs(), &name, command, PULL_TIMEOUT)?.success()
}

fn write_registries(pull: &Pull<'_>, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("registries.conf");
    let mirror = pull.peer.door_authority();
    let text = format!(
        "[[registry]]\nprefix = \"{REGISTRY_HOST}\"\nlocation = \"{REGISTRY_HOST}\"\n\
         [[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// The digests of the manifest and the blobs in a directory transport's directory.
fn digests_of_files(dir: &Path) -> Result<BTreeSet<Digest>> {
    let mut digests = BTreeSet::new();
    for entry in fs::read_dir(dir).context("read image directory")? {
        let entry = entry?;
        if entry.file_name() != "version" {
            digests.insert(Digest::of(&fs::read(entry.path())?));
        }
    }
    Ok(digests)
}
