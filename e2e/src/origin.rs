//! The registry of a story: Debian's `docker-registry`, with TLS, on an address of its own.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use flotilla_proto::Digest;
use rustix::process::Signal;

use crate::access_log::AccessLog;
use crate::certificates::Authority;
use crate::http;
use crate::image::Image;
use crate::object_store::{ACCESS_KEY, ObjectStore, SECRET_KEY};
use crate::process::{self, Process};
use crate::stage::{
    ORIGIN_BACKSTAGE_IP, REGION_IP, REGISTRY_HOST, REGISTRY_IP, STORAGE_HOST, STORAGE_IP, Side, Stage,
};
use crate::wait;

/// A running registry.
#[derive(Debug)]
pub struct Origin<'a> {
    stage: &'a Stage,
    authority: Authority,
    registry: Option<Process>,
    object_store: Option<ObjectStore>,
    /// Lines of the access log that an earlier look has taken.
    lines_seen: usize,
}

/// How a registry lets people in, and where it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Everybody; in files.
    Plain,
    /// Those in its htpasswd file, [`USER`]; in files.
    Htpasswd,
    /// Everybody; in the same files, but behind an S3 that readers of blobs are sent to.
    S3,
}

impl<'a> Origin<'a> {
    /// Starts an empty registry.
    pub fn start(stage: &'a Stage) -> Result<Self> {
        let dir = stage.dir("origin")?;
        stage.dir("origin/certs")?;
        let authority = Authority::new("authority of the origin")?;
        write_certificates(&dir, &authority)?;
        let mut origin = Self { stage, authority, registry: None, object_store: None, lines_seen: 0 };
        origin.set_up(Setup::Plain)?;
        Ok(origin)
    }

    /// Starts the registry again over what it holds, in another way.
    pub fn set_up(&mut self, setup: Setup) -> Result<()> {
        self.stop();
        self.object_store = None;
        if setup == Setup::S3 {
            let listener = self.stage.listen_at_origin(STORAGE_IP, 443)?;
            let leaf = self.authority.leaf(STORAGE_HOST)?;
            self.object_store = Some(ObjectStore::start(&self.stage.path("origin"), &leaf, listener)?);
        }
        let dir = self.stage.dir("origin")?;
        fs::write(dir.join("htpasswd"), HTPASSWD)?;
        fs::write(dir.join("registry.yml"), configuration(setup))?;
        self.resume()
    }

    /// Starts the registry again over what it holds, with an empty access log.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = self.stage.command(Side::Origin, "docker-registry");
        command.args(["serve", "/run/story/origin/registry.yml"]);
        command.env("SSL_CERT_FILE", self.ca());
        let mut registry = Process::start(&self.stage.logs(), "registry", command)?;
        wait::until("registry ready", START_TIMEOUT, || {
            registry.check_running()?;
            Ok(http::get_text(&metrics_url()).ok())
        })?;
        self.registry = Some(registry);
        self.lines_seen = 0;
        Ok(())
    }

    /// Ends the registry: its port refuses from here on.
    pub fn stop(&mut self) {
        self.registry = None;
    }

    /// Stops the registry's process in its tracks: the kernel still accepts connections,
    /// and nothing is ever answered.
    pub fn hang(&self) -> Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    /// Lets a hung registry go on.
    pub fn unhang(&self) -> Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    /// The certificate authority of the registry's certificate.
    pub fn ca(&self) -> PathBuf {
        self.stage.path("origin/certs/ca.crt")
    }

    /// Pushes `image` as `<repository>:v1` from the origin's own side.
    pub fn publish(&self, image: &Image) -> Result<()> {
        let dir = self.stage.dir(format!("origin/push/{}", image.repository))?;
        // containers/image's directory transport: the manifest, and blobs named by hex digest.
        fs::write(dir.join("version"), "Directory Transport Version: 1.1\n")?;
        fs::write(dir.join("manifest.json"), image.manifest.content())?;
        for blob in image.blobs() {
            fs::write(dir.join(blob.digest().hex()), blob.content())?;
        }
        let mut command = self.stage.command(Side::Origin, "skopeo");
        command
            .args(["copy", "--preserve-digests", "--dest-cert-dir", "/run/story/origin/certs"])
            .arg(format!("dir:{}", dir.display()))
            .arg(format!("docker://{REGISTRY_HOST}/{}:v1", image.repository));
        process::run(&self.stage.logs(), "push", command, PUSH_TIMEOUT)?.success().map(drop)
    }

    /// What the region has asked of the registry since the last call, once every request
    /// under way has ended.
    pub fn requests(&mut self) -> Result<AccessLog> {
        Ok(self.all_requests()?.from(REGION_IP))
    }

    /// What anyone has asked of the registry since the last call, once every request under
    /// way has ended.
    pub fn all_requests(&mut self) -> Result<AccessLog> {
        let path = self.running()?.output().stdout_path().to_owned();
        let log = wait::until("registry idle", IDLE_TIMEOUT, || {
            let Some(count) = request_count_when_idle(&http::get_text(&metrics_url())?) else {
                return Ok(None);
            };
            let log = AccessLog::read(&path, 0)?;
            Ok((log.requests.len() >= count).then_some(log))
        })?;
        let requests = log.requests[self.lines_seen..].to_vec();
        self.lines_seen = log.requests.len();
        Ok(AccessLog { requests })
    }

    /// Flips one bit in the middle of what the registry stores as `digest`; again, back.
    pub fn flip_bit(&self, digest: Digest) -> Result<()> {
        let hex = digest.hex();
        let path = format!("origin/storage/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let file = fs::File::options().read(true).write(true).open(self.stage.path(path))?;
        let middle = file.metadata()?.len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, middle)?;
        file.write_all_at(&[byte[0] ^ 1], middle)?;
        Ok(())
    }

    fn running(&self) -> Result<&Process> {
        self.registry.as_ref().context("the registry is stopped")
    }
}

/// How many requests the registry has answered, if none is under way.
///
/// It counts a request before it logs it, so as many log lines must be awaited.
fn request_count_when_idle(metrics: &str) -> Option<usize> {
    let mut count = 0;
    for line in metrics.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let value: usize = value.parse().unwrap_or(0);
        if series.starts_with("registry_http_in_flight_requests{") && value > 0 {
            return None;
        }
        if series.starts_with("registry_http_requests_total{") {
            count += value;
        }
    }
    Some(count)
}

fn metrics_url() -> String {
    format!("http://{ORIGIN_BACKSTAGE_IP}:5001/metrics")
}

fn configuration(setup: Setup) -> String {
    let storage = match setup {
        Setup::Plain | Setup::Htpasswd => {
            format!("filesystem: {{rootdirectory: /run/story/origin/{BUCKET}}}")
        }
        Setup::S3 => format!(
            "s3: {{accesskey: {ACCESS_KEY}, secretkey: {SECRET_KEY}, region: us-east-1, \
             regionendpoint: 'https://{STORAGE_HOST}', bucket: {BUCKET}}}"
        ),
    };
    let auth = match setup {
        Setup::Plain | Setup::S3 => "",
        Setup::Htpasswd => "auth: {htpasswd: {realm: origin, path: /run/story/origin/htpasswd}}\n",
    };
    format!(
        "version: 0.1\n\
         log: {{level: error, accesslog: {{disabled: false}}}}\n\
         storage: {{{storage}, delete: {{enabled: true}}}}\n\
         {auth}\
         validation: {{manifests: {{urls: {{allow: ['.']}}}}}}\n\
         http:\n\
         \x20 addr: {REGISTRY_IP}:443\n\
         \x20 secret: one for all uploads\n\
         \x20 tls: {{certificate: /run/story/origin/leaf.pem, key: /run/story/origin/leaf.key}}\n\
         \x20 debug: {{addr: {ORIGIN_BACKSTAGE_IP}:5001, prometheus: {{enabled: true, path: /metrics}}}}\n"
    )
}

fn write_certificates(dir: &Path, authority: &Authority) -> Result<()> {
    let leaf = authority.leaf(REGISTRY_HOST)?;
    fs::write(dir.join("certs/ca.crt"), authority.pem())?;
    fs::write(dir.join("leaf.pem"), leaf.certificate.pem())?;
    fs::write(dir.join("leaf.key"), leaf.key.serialize_pem())?;
    Ok(())
}

/// Name and password that [`Setup::Htpasswd`] knows.
pub const USER: (&str, &str) = ("alice", "secret");
/// The same, hashed at bcrypt's cost 5: it is judged with each request.
const HTPASSWD: &str = "alice:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// Where the registry stores, and what S3 calls that directory.
const BUCKET: &str = "storage";
const START_TIMEOUT: Duration = Duration::from_secs(20);
const PUSH_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_only_when_none_is_under_way() {
        let counts = "registry_http_requests_total{code=\"200\",handler=\"blob\",method=\"get\"} 2\n\
                      registry_http_requests_total{code=\"404\",handler=\"blob\",method=\"get\"} 1\n";
        let gauge = |value| format!("registry_http_in_flight_requests{{handler=\"blob\"}} {value}\n{counts}");
        assert_eq!(request_count_when_idle(&gauge(0)), Some(3));
        assert_eq!(request_count_when_idle(&gauge(1)), None);
    }
}
