//! skopeo, buildah and podman: one library, three programs. All settings are files and
//! flags of the one process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use flotilla_proto::Digest;
use serde::Deserialize;
use serde_json::Value;

use super::{Client, FrontDoor, PULL_TIMEOUT, Pull, digests};
use crate::process::{self, Finished};
use crate::stage::{REGISTRY_HOST, Side};

/// Pulls with the program that the pull names.
pub(super) fn pull(pull: &Pull<'_>) -> Result<Finished> {
    let (program, command) = match pull.client {
        Client::Skopeo => ("skopeo", skopeo_copy(pull)?),
        Client::Buildah => ("buildah", storage_pull(pull, "buildah")?),
        Client::Podman => ("podman", storage_pull(pull, "podman")?),
        Client::Docker | Client::Ctr => bail!("{:?} pulls by its daemon", pull.client),
    };
    process::run(&pull.stage.logs(), &pull.name(program), command, PULL_TIMEOUT)
}

/// What the pull has left: skopeo's files are hashed anew, the others say what they hold.
pub(super) fn held(pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
    match pull.client {
        Client::Skopeo => digests_of_files(&pull.stage.dir(pull.dir())?.join("image")),
        Client::Buildah => buildah_inspect(pull),
        Client::Podman => podman_inspect(pull),
        Client::Docker | Client::Ctr => bail!("{:?} holds it in its daemon", pull.client),
    }
}

/// `skopeo copy` into a directory.
fn skopeo_copy(pull: &Pull<'_>) -> Result<Command> {
    let dir = pull.stage.dir(pull.dir())?;
    let mut command = pull.command("skopeo")?;
    if pull.front_door == FrontDoor::Mirror {
        command.arg("--registries-conf").arg(write_registries(pull, &dir)?);
    }
    command.arg("copy");
    match (pull.front_door, pull.credentials) {
        (_, None) => {}
        (FrontDoor::Proxy | FrontDoor::Prefix | FrontDoor::Sni, Some(credentials)) => {
            command.args(["--src-creds", credentials]);
        }
        // Credentials given by a flag are for the registry and go to no mirror.
        (FrontDoor::Mirror, Some(_)) => {
            command.arg("--src-authfile").args(pull.write_login(&dir)?);
        }
    }
    match pull.front_door {
        FrontDoor::Proxy | FrontDoor::Sni => {
            command.arg("--src-cert-dir").arg(write_certificates(pull, &dir)?);
        }
        FrontDoor::Mirror => {}
        FrontDoor::Prefix => {
            command.arg("--src-tls-verify=false");
        }
    }
    let image = dir.join("image");
    command.arg(format!("docker://{}", pull.reference())).arg(format!("dir:{}", image.display()));
    Ok(command)
}

/// `buildah pull` or `podman pull`, into a storage of this pull's own.
fn storage_pull(pull: &Pull<'_>, program: &str) -> Result<Command> {
    let dir = pull.stage.dir(pull.dir())?;
    let mut command = pull.command(program)?;
    if pull.front_door == FrontDoor::Mirror {
        command.env("CONTAINERS_REGISTRIES_CONF", write_registries(pull, &dir)?);
    }
    if let Some(login) = pull.write_login(&dir)? {
        command.env("REGISTRY_AUTH_FILE", login);
    }
    name_storage(&mut command, &dir);
    command.arg("pull");
    match pull.front_door {
        FrontDoor::Proxy | FrontDoor::Sni => {
            command.arg("--cert-dir").arg(write_certificates(pull, &dir)?);
        }
        FrontDoor::Mirror => {}
        FrontDoor::Prefix => {
            command.arg("--tls-verify=false");
        }
    }
    command.arg(pull.reference());
    Ok(command)
}

fn buildah_inspect(pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        from_image_digest: String,
        #[serde(rename = "FromImageID")]
        from_image_id: String,
        #[serde(rename = "OCIv1")]
        oci: Value,
    }
    let json = inspect(pull, "buildah", &["inspect", "--type", "image"])?;
    let image: Inspected = serde_json::from_str(&json).context("read inspect")?;
    let layers = image.oci["rootfs"]["diff_ids"].as_array().context("no diff ids")?;
    let layers = layers.iter().filter_map(Value::as_str);
    let config = format!("sha256:{}", image.from_image_id);
    digests([image.from_image_digest.as_str(), &config].into_iter().chain(layers))
}

fn podman_inspect(pull: &Pull<'_>) -> Result<BTreeSet<Digest>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        id: String,
        digest: String,
        #[serde(rename = "RootFS")]
        root_fs: Value,
    }
    let json = inspect(pull, "podman", &["image", "inspect"])?;
    let [image]: [Inspected; 1] = serde_json::from_str(&json).context("read inspect")?;
    let layers = image.root_fs["Layers"].as_array().context("no layers")?;
    let layers = layers.iter().filter_map(Value::as_str);
    let config = format!("sha256:{}", image.id);
    digests([image.digest.as_str(), &config].into_iter().chain(layers))
}

fn inspect(pull: &Pull<'_>, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = pull.stage.command(Side::Client, program);
    name_storage(&mut command, &pull.stage.dir(pull.dir())?);
    command.args(arguments).arg(pull.reference());
    process::run(&pull.stage.logs(), &pull.name(&format!("{program}-inspect")), command, PULL_TIMEOUT)?
        .success()
}

fn name_storage(command: &mut Command, dir: &Path) {
    command.args(["--storage-driver", "vfs", "--root"]).arg(dir.join("root"));
    command.arg("--runroot").arg(dir.join("runroot"));
}

/// A directory as `/etc/containers/certs.d` has for each registry.
fn write_certificates(pull: &Pull<'_>, dir: &Path) -> Result<PathBuf> {
    let certificates = dir.join("certs");
    fs::create_dir_all(&certificates)?;
    fs::copy(&pull.peer.ca, certificates.join("ca.crt")).context("copy the peer's CA")?;
    Ok(certificates)
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
