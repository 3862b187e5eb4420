//! No credential is written anywhere: not at TRACE, and not in any file that a region keeps.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::client::{Client, Curl, FrontDoor, Pull};
use crate::harbor::{Access, Auth, Harbor, On, Request, What};
use crate::image::{Blob, Format, Image, ImageSpec};
use crate::region::{Peer, Region};
use crate::stage::Stage;
use crate::wait;

const ROBOT: &str = "robot$x:correct-horse-battery-staple";
const WRONG: &str = "robot$x:incorrect-horse-battery-staple";
/// The seed's own account, for blobs that no client may read.
const SEED: &str = "robot$seed:patient-mule-magnet-rivet";
/// May read until it has its manifest.
const GONE: &str = "robot$gone:former-goat-socket-thimble";

pub(super) fn are_in_no_file(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    let (robot, secret) = add_robot(&harbor, ROBOT)?;
    let mut region = up_with_robot(stage, &harbor)?;
    region.open_sni_doors()?;
    region.log_everything()?;
    stage.assert_fenced()?;

    // Signed URLs are credentials too.
    harbor.configure(|harbor| harbor.redirect_blobs = true);
    let token = harbor.token(Some((robot, secret)), "priv/app");
    for (seed, front_door) in (1..).zip(FrontDoor::ALL) {
        let name = format!("priv/{front_door:?}").to_lowercase();
        let image = ImageSpec { format: Format::Oci, layer_lens: vec![2 << 20, 10] }.build(&name, seed);
        harbor.publish(&image, "v1");
        // Errors have words of their own.
        harbor.fault(On::storage().get().digest(image.layers[0].digest()).times(1), What::CutAfter(1 << 20));
        harbor.fault(On::storage().get().digest(image.layers[1].digest()).times(1), What::Status(403));
        let peer = region.peers().next().context("no peer")?;
        let guest = Guest { stage, peer, front_door, image: &image };
        guest.pull(Client::Ctr).with_context(|| format!("ctr at {front_door:?}"))?;
        guest.pull(Client::Skopeo).with_context(|| format!("skopeo at {front_door:?}"))?;
        guest.ask(&token).with_context(|| format!("raw requests at {front_door:?}"))?;
    }
    seed_reads_as_robot(stage, &harbor, &region)?;
    assert_says_all(&region)?;
    assert_in_no_file(&secrets(&harbor), &files_below(&region.dir())?)
}

fn add_robot<'a>(harbor: &Harbor, credentials: &'a str) -> Result<(&'a str, &'a str)> {
    let (name, secret) = credentials.split_once(':').context("a name and a secret")?;
    harbor.add_robot(name, secret, &["priv"]);
    Ok((name, secret))
}

/// A region whose seed has an account of its own. Its password lies where nothing else of the region does.
fn up_with_robot<'a>(stage: &'a Stage, harbor: &Harbor) -> Result<Region<'a>> {
    let (name, secret) = add_robot(harbor, SEED)?;
    let file = stage.region_dir("robot")?.join("password");
    fs::write(&file, secret).context("write password")?;
    Region::up_with_keys(stage, harbor.ca(), &format!("user={name},password-file={}", file.display()), 1)
}

/// A blob is read with the seed's account where the clients' are refused: here one that was good for the
/// manifest, and no longer is. The client gets nothing.
fn seed_reads_as_robot(stage: &Stage, harbor: &Harbor, region: &Region<'_>) -> Result<()> {
    let (gone, _) = add_robot(harbor, GONE)?;
    let (seed, _) = SEED.split_once(':').context("a name and a secret")?;
    let image = ImageSpec { format: Format::Oci, layer_lens: vec![2 << 20] }.build("priv/robot", 5);
    harbor.publish(&image, "v1");
    let authorization = basic(GONE);
    let peer = region.peers().next().context("no peer")?;
    let curl = Curl { stage, peer, front_door: FrontDoor::Mirror, authorization: Some(&authorization) };
    let blob = |of: &Blob| format!("priv/robot/blobs/{}", of.digest());
    // The config is fetched with the manifest: to be refused it would end the grant.
    for path in ["priv/robot/manifests/v1".to_owned(), blob(&image.config)] {
        let heard = curl.get(&path)?;
        ensure!(heard.status == 200, "{path}: answered {}", heard.status);
    }
    harbor.remove_account(gone);
    let layer = blob(&image.layers[0]);
    let heard = curl.get(&layer)?;
    ensure!(heard.status == 401, "who is gone is answered {}", heard.status);
    let is_robots = |request: &Request| {
        request.path.ends_with(&layer)
            && request.auth == Auth::Basic(seed.to_owned())
            && matches!(request.status, 200 | 206 | 307)
    };
    wait::until("the seed's account at the registry", Duration::from_secs(20), || {
        Ok(harbor.log_at_once().requests.iter().any(is_robots).then_some(()))
    })
    .with_context(|| {
        harbor.log_at_once().filter(|request| request.path.contains("priv/robot")).to_string()
    })?;
    let heard = Curl { authorization: Some(&basic(ROBOT)), ..curl }.get(&layer)?;
    ensure!(heard.status == 200 && heard.is_whole, "who may have it is answered {}", heard.status);
    Ok(())
}

/// What the search relies on: all daemons are at TRACE, and speak of what they were asked.
fn assert_says_all(region: &Region<'_>) -> Result<()> {
    for name in ["manager", "scheduler", "seed-0", "peer-0"] {
        let log = fs::read_to_string(region.dir().join(name).join("log")).context("read log")?;
        ensure!(log.contains(" TRACE "), "{name} is not at TRACE");
        ensure!(name != "peer-0" || log.contains("priv/proxy"), "{name} names no request");
    }
    Ok(())
}

/// Pulls and asks, with credentials of every kind.
struct Guest<'a> {
    stage: &'a Stage,
    peer: &'a Peer,
    front_door: FrontDoor,
    image: &'a Image,
}

impl Guest<'_> {
    fn pull(&self, client: Client) -> Result<()> {
        let &Self { stage, peer, front_door, image } = self;
        let reference = format!("{}:v1", image.repository);
        let label = format!("{client:?}-{front_door:?}");
        let (image, label) = (reference.as_str(), label.as_str());
        let pull = Pull { stage, client, front_door, peer, image, credentials: Some(ROBOT), label };
        let ready = pull.start()?;
        ready.refused(&Pull { credentials: Some(WRONG), ..pull })?;
        ready.run().map(drop)
    }

    fn ask(&self, token: &str) -> Result<()> {
        let bearer = format!("Bearer {token}");
        let &Self { stage, peer, front_door, image } = self;
        for (authorization, status) in [(basic(ROBOT), 200), (basic(WRONG), 401), (bearer, 200)] {
            let curl = Curl { stage, peer, front_door, authorization: Some(&authorization) };
            for path in ["manifests/v1".to_owned(), format!("blobs/{}", image.layers[0].digest())] {
                let heard = curl.get(&format!("{}/{path}", image.repository))?;
                ensure!(heard.status == status, "{path}: answered {}", heard.status);
            }
        }
        Ok(())
    }
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

/// What must be nowhere, and how to call it.
fn secrets(harbor: &Harbor) -> Vec<(&'static str, String)> {
    let secret = |credentials: &str| credentials.split(':').next_back().unwrap_or_default().to_owned();
    // Of every token of this Harbor, whoever asked for it: all begin with one header.
    let header = harbor.token(None, "priv/app").split('.').next().unwrap_or_default().to_owned();
    vec![
        ("the password", secret(ROBOT)),
        ("the wrong password", secret(WRONG)),
        ("the password in base64", BASE64_STANDARD.encode(ROBOT)),
        ("the wrong password in base64", BASE64_STANDARD.encode(WRONG)),
        ("the seed's own password", secret(SEED)),
        ("the seed's own password in base64", BASE64_STANDARD.encode(SEED)),
        ("the password of who is gone", secret(GONE)),
        ("the password of who is gone in base64", BASE64_STANDARD.encode(GONE)),
        ("a token", header),
        ("a signed URL", "Signature=".to_owned()),
    ]
}

fn assert_in_no_file(secrets: &[(&str, String)], files: &[PathBuf]) -> Result<()> {
    ensure!(!files.is_empty(), "the region keeps no files");
    let mut found = String::new();
    for file in files {
        let content = match fs::read(file) {
            // A download that has ended lies elsewhere.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            content => content.with_context(|| format!("read {}", file.display()))?,
        };
        for (name, secret) in secrets {
            if let Some(line) = line_with(&content, secret.as_bytes()) {
                found += &format!("\n{name} in {}: {line}", file.display());
            }
        }
    }
    ensure!(found.is_empty(), "credentials were written:{found}");
    Ok(())
}

/// The line that holds `needle`, if there is one.
fn line_with(content: &[u8], needle: &[u8]) -> Option<String> {
    let at = content.windows(needle.len()).position(|window| window == needle)?;
    let start = content[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let end = content[at..].iter().position(|byte| *byte == b'\n').map_or(content.len(), |end| at + end);
    Some(String::from_utf8_lossy(&content[start..end]).chars().take(400).collect())
}

/// All regular files below `dir`; those that vanish meanwhile are none.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten() {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_file_is_found_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/log"), "one\ntwo hunter2 two\nthree\n").unwrap();
        let files = files_below(dir.path()).unwrap();
        let error = assert_in_no_file(&[("it", "hunter2".to_owned())], &files).unwrap_err().to_string();
        assert!(error.ends_with("log: two hunter2 two"), "{error}");
        assert!(assert_in_no_file(&[("it", "hunter3".to_owned())], &files).is_ok());
    }
}
