//! A fake Harbor, in the process of the test.
//!
//! It does what a real one was seen to do: every § in this module's comments is a section of
//! the integration notes, which were read in Harbor's code and measured on a real 2.16. What it
//! adds is what a test needs of an origin and a real one refuses: to fail at a chosen byte, to
//! say what it was asked, and to change its mind at once.
//!
//! ```text
//!  verbs (this file) ──┐
//!                      ├── registry: the core, a request in and an answer out
//!  serve, body ────────┘      auth · manifests · blobs · proxy_cache · push · storage · faults
//! ```

mod accounts;
mod answer;
mod auth;
mod behaviour;
mod blobs;
mod body;
mod call;
mod content;
mod faults;
mod listing;
mod log;
mod manifests;
mod proxy_cache;
mod push;
mod ranges;
mod registry;
mod serve;
mod storage;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use flotilla_proto::Digest;
use rustls::ServerConfig;
use serde_json::json;
use tokio::runtime::Runtime;

pub use self::accounts::Access;
use self::accounts::{Account, Caller, Role};
pub use self::behaviour::Behaviour;
pub use self::call::Host;
use self::call::project_of;
pub use self::faults::{FaultHandle, On, What};
use self::log::Journal;
pub use self::log::{Auth, Request, RequestLog};
pub use self::proxy_cache::{ProxyCache, Upstream, UpstreamReads};
use self::registry::Registry;
use crate::certificates::Authority;
use crate::image::{Format, Image};
use crate::stage::{REGISTRY_HOST, REGISTRY_IP, STORAGE_HOST, STORAGE_IP, Stage};
use crate::wait;

/// A running Harbor with its object store. It stops when it is dropped.
#[derive(Debug)]
pub struct Harbor {
    shared: Arc<Shared>,
    /// None while it is stopped.
    runtime: Option<Runtime>,
    authority: Authority,
    ca: PathBuf,
}

/// What a host shows for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// Its own.
    Right,
    /// One for another name, by the right authority.
    OtherName,
    /// One for its name, by an authority that nobody trusts.
    UnknownAuthority,
}

/// What the verbs and the connections share.
#[derive(Debug)]
struct Shared {
    /// Held for one decision or one change, never while something is awaited.
    registry: Mutex<Registry>,
    journal: Journal,
    /// Replaced when a host is to show another certificate.
    tls_by_host: Mutex<BTreeMap<Host, Arc<ServerConfig>>>,
}

impl Harbor {
    /// Starts an empty Harbor on the origin's side of the stage.
    pub fn start(stage: &Stage) -> Result<Self> {
        let (registry, storage) = listen(stage)?;
        Self::start_on(registry, storage, &stage.dir("harbor/certs")?)
    }

    /// Starts an empty Harbor that serves these sockets, and writes its authority to `dir`.
    pub fn start_on(registry: TcpListener, storage: TcpListener, dir: &Path) -> Result<Self> {
        let authority = Authority::new("authority of the fake Harbor")?;
        let ca = dir.join("ca.crt");
        fs::write(&ca, authority.pem()).context("write authority")?;
        let storage_authority = match storage.local_addr()?.port() {
            443 => STORAGE_HOST.to_owned(),
            port => format!("{STORAGE_HOST}:{port}"),
        };
        let shared = Arc::new(Shared {
            registry: Mutex::new(Registry::new(storage_authority)),
            journal: Journal::default(),
            tls_by_host: Mutex::default(),
        });
        let mut harbor = Self { shared, runtime: None, authority, ca };
        harbor.show(Host::Registry, Certificate::Right)?;
        harbor.show(Host::Storage, Certificate::Right)?;
        harbor.serve(registry, storage)?;
        Ok(harbor)
    }

    /// Closes all connections and both ports; what it holds stays.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }

    /// Opens the ports again after [`Self::stop`].
    pub fn resume(&mut self, stage: &Stage) -> Result<()> {
        let (registry, storage) = listen(stage)?;
        self.serve(registry, storage)
    }

    /// The certificate authority of both hosts.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// Has a host show a certificate from the next connection on.
    pub fn show(&self, host: Host, certificate: Certificate) -> Result<()> {
        let name = match host {
            Host::Registry => REGISTRY_HOST,
            Host::Storage => STORAGE_HOST,
        };
        let leaf = match certificate {
            Certificate::Right => self.authority.leaf(name)?,
            Certificate::OtherName => self.authority.leaf("other.test")?,
            Certificate::UnknownAuthority => Authority::new("authority of nobody")?.leaf(name)?,
        };
        self.shared.tls_configs().insert(host, leaf.server_config()?);
        Ok(())
    }

    /// Changes how it behaves.
    pub fn configure(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.registry().behaviour);
    }

    /// Orders a fault.
    pub fn fault(&self, on: On, what: What) -> FaultHandle {
        self.shared.registry().faults.order(on, what)
    }

    /// Adds a project, or changes who may read it.
    pub fn add_project(&self, name: &str, access: Access) {
        self.shared.registry().accounts.set_project(name, access, None);
    }

    /// Adds a private proxy-cache project, or changes what it is and how its upstream is: what is
    /// local stays local. What is published to it is what upstream has.
    pub fn add_proxy_cache(&self, name: &str, settings: ProxyCache) {
        self.shared.registry().accounts.set_project(name, Access::Private, Some(settings));
    }

    /// Removes a project and its rights, not its content: added again, it does not take the
    /// tokens from before (§2.1).
    pub fn remove_project(&self, name: &str) {
        self.shared.registry().accounts.remove_project(name);
    }

    /// Has no manifest of a project pass, with this message, or all.
    ///
    /// # Panics
    /// If there is no such project.
    pub fn set_policy(&self, project: &str, message: Option<&str>) {
        let mut registry = self.shared.registry();
        let project = registry.accounts.project_mut(project).expect("the test has added the project");
        project.policy = message.map(str::to_owned);
    }

    /// Adds a user, who pulls and pushes in these projects, or changes one.
    pub fn add_user(&self, name: &str, password: &str, projects: &[&str]) {
        self.add_account(name, Account::new(password, Role::User, projects));
    }

    /// Adds a robot, which pulls from these projects, or changes one. Its name begins with
    /// `robot$`.
    pub fn add_robot(&self, name: &str, secret: &str, projects: &[&str]) {
        self.add_account(name, Account::new(secret, Role::Robot, projects));
    }

    /// Lets a secret stand for an account, be it in a cookie, in `X-Api-Key` or in the query.
    pub fn add_session(&self, secret: &str, account: &str) {
        self.shared.registry().accounts.set_session(secret, account);
    }

    /// Adds an administrator.
    pub fn add_admin(&self, name: &str, password: &str) {
        self.add_account(name, Account::new(password, Role::Admin, &[]));
    }

    /// Removes a user, a robot or an administrator. Basic fails at once, tokens live on (§2.7).
    pub fn remove_account(&self, name: &str) {
        self.shared.registry().accounts.remove_account(name);
    }

    /// All tokens issued so far have expired from here on.
    pub fn expire_tokens(&self) {
        self.shared.registry().accounts.tokens.expire_all();
    }

    /// A token as the token service gives it to who says this name and password, or to nobody.
    pub fn token(&self, account: Option<(&str, &str)>, repository: &str) -> String {
        let mut registry = self.shared.registry();
        let log_in = |(name, secret)| registry.accounts.log_in(name, secret);
        let caller = account.map_or(Caller::Anonymous, log_in);
        let scopes = [format!("repository:{repository}:pull")];
        let life = registry.behaviour.token_life;
        registry.accounts.issue(&caller, &scopes, SystemTime::now(), life)
    }

    /// Publishes an image under a tag of its repository.
    pub fn publish(&self, image: &Image, tag: &str) {
        let digest = self.publish_untagged(image);
        self.shared.registry().content.tag(&image.repository, tag, digest);
    }

    /// Publishes images of one repository, each with its architecture, and an index of them under
    /// a tag.
    ///
    /// # Panics
    /// If there are none.
    pub fn publish_index(&self, images: &[(&str, &Image)], tag: &str) -> Digest {
        let (_, first) = images.first().expect("an index lists images");
        let media_type = Format::of_manifest(first.media_type).index_media_type();
        let descriptors = images.iter().map(|(architecture, image)| {
            json!({
                "mediaType": image.media_type,
                "size": image.manifest.size(),
                "digest": self.publish_untagged(image).to_string(),
                "platform": { "architecture": architecture, "os": "linux" },
            })
        });
        let manifests: Vec<_> = descriptors.collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        self.publish_manifest(&first.repository, tag, media_type, index.to_string().as_bytes())
    }

    /// Publishes any bytes as a manifest under a tag.
    pub fn publish_manifest(&self, repository: &str, tag: &str, media_type: &str, content: &[u8]) -> Digest {
        let mut registry = self.shared.registry();
        let digest = registry.content.put_manifest(repository, media_type, content.to_vec().into());
        registry.content.tag(repository, tag, digest);
        digest
    }

    /// Publishes any bytes as a blob.
    pub fn publish_blob(&self, repository: &str, content: &[u8]) -> Digest {
        self.shared.registry().content.put_blob(repository, content.to_vec().into())
    }

    /// Publishes a blob under a digest that is not SHA-256, as it is written.
    pub fn publish_blob_as(&self, repository: &str, digest: &str, content: &[u8]) {
        self.shared.registry().content.put_other_blob(repository, digest, content.to_vec().into());
    }

    /// Removes a manifest with its tags, or a blob, from a repository.
    pub fn remove(&self, repository: &str, digest: Digest) {
        self.shared.registry().content.repository_mut(repository).remove(digest);
    }

    /// How many pulls Harbor has counted for a repository (§2.2).
    pub fn pulls(&self, repository: &str) -> u64 {
        self.shared.registry().content.repository(repository).map_or(0, |repository| repository.pulls)
    }

    /// What was read from upstream for a repository of a proxy-cache project.
    pub fn upstream_reads(&self, repository: &str) -> UpstreamReads {
        let registry = self.shared.registry();
        registry.content.repository(repository).map(|repository| repository.cache.reads).unwrap_or_default()
    }

    /// All requests since the start, once none is under way; if that takes too long, with those
    /// that are.
    pub fn log(&self) -> RequestLog {
        let idle = || Ok(self.shared.journal.is_idle().then_some(()));
        if let Err(error) = wait::until("Harbor idle", IDLE_TIMEOUT, idle) {
            eprintln!("{error}");
        }
        self.log_at_once()
    }

    /// All requests since the start, also those under way.
    pub fn log_at_once(&self) -> RequestLog {
        self.shared.journal.log()
    }

    fn add_account(&self, name: &str, account: Account) {
        self.shared.registry().accounts.set_account(name, account);
    }

    fn publish_untagged(&self, image: &Image) -> Digest {
        let mut registry = self.shared.registry();
        let project = project_of(&image.repository);
        assert!(registry.accounts.project(project).is_some(), "the test has added project {project}");
        for blob in image.blobs() {
            registry.content.put_blob(&image.repository, blob.content().to_vec().into());
        }
        let manifest = image.manifest.content().to_vec().into();
        registry.content.put_manifest(&image.repository, image.media_type, manifest)
    }

    fn serve(&mut self, registry: TcpListener, storage: TcpListener) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("harbor")
            .enable_all()
            .build()?;
        for (host, listener) in [(Host::Registry, registry), (Host::Storage, storage)] {
            listener.set_nonblocking(true)?;
            let _guard = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            runtime.spawn(serve::accept(Arc::clone(&self.shared), host, listener));
        }
        self.runtime = Some(runtime);
        Ok(())
    }
}

impl Drop for Harbor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no holder panics")
    }

    fn tls_configs(&self) -> MutexGuard<'_, BTreeMap<Host, Arc<ServerConfig>>> {
        self.tls_by_host.lock().expect("no holder panics")
    }

    fn tls(&self, host: Host) -> Arc<ServerConfig> {
        Arc::clone(&self.tls_configs()[&host])
    }
}

fn listen(stage: &Stage) -> Result<(TcpListener, TcpListener)> {
    Ok((stage.listen_at_origin(REGISTRY_IP, 443)?, stage.listen_at_origin(STORAGE_IP, 443)?))
}

const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
