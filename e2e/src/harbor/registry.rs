//! The core: a request in, an answer out. It knows neither sockets nor tasks.

use flotilla_proto::Digest;
use hyper::Method;

use super::accounts::Accounts;
use super::answer::{Answer, Effect};
use super::auth;
use super::behaviour::Behaviour;
use super::blobs;
use super::call::{Call, Host, Resource, Route, project_of};
use super::content::Content;
use super::faults::Faults;
use super::listing;
use super::manifests;
use super::proxy_cache::{self, Fetch, ProxyCache};
use super::push::{self, Uploads};
use super::storage::{self, SignedUrls};

/// All that a Harbor and its object store are.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) behaviour: Behaviour,
    pub(super) accounts: Accounts,
    pub(super) content: Content,
    pub(super) faults: Faults,
    uploads: Uploads,
    urls: SignedUrls,
}

impl Registry {
    pub(super) fn new(storage_authority: String) -> Self {
        Self {
            behaviour: Behaviour::default(),
            accounts: Accounts::new(),
            content: Content::default(),
            faults: Faults::default(),
            uploads: Uploads::default(),
            urls: SignedUrls::new(storage_authority),
        }
    }

    /// The answer to a request, with the faults that strike it. A pull counts by then; what
    /// counts only when the answer was sent is left in its effect.
    pub(super) fn answer(&mut self, call: &Call) -> Answer {
        let answer = match call.host {
            Host::Registry => self.core(call).with_session(),
            Host::Storage => storage::answer(call, &self.content, &self.urls, &self.behaviour),
        };
        let mut answer = self.faults.strike(call, answer);
        if let Some(pull @ Effect::Pull(_)) =
            answer.effect.take_if(|effect| matches!(effect, Effect::Pull(_)))
        {
            self.apply(pull);
        }
        answer
    }

    /// Changes what an answer was to change.
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Pull(name) => self.content.repository_mut(&name).pulls += 1,
            Effect::Cache(name, digest) => {
                self.content.repository_mut(&name).cache.blobs.insert(digest);
            }
        }
    }

    fn core(&mut self, call: &Call) -> Answer {
        if call.route() == Route::Token {
            return auth::token_service(&mut self.accounts, &self.behaviour, call);
        }
        let caller = self.accounts.identify(call, self.behaviour.token_leeway);
        if let Some(refusal) = auth::refusal(&self.accounts, call, &caller) {
            return refusal;
        }
        match call.route() {
            Route::Base => {
                Answer::ok("application/json", "{}").with("docker-distribution-api-version", "registry/2.0")
            }
            Route::Catalog => listing::catalog(call, &self.content),
            Route::Repository(name, resource) => self.repository(call, name, resource),
            Route::Token | Route::Unknown => Answer::not_found("NOT_FOUND", "page not found"),
        }
    }

    fn repository(&mut self, call: &Call, name: &str, resource: Resource<'_>) -> Answer {
        let proxy_cache = self.accounts.project(project_of(name)).and_then(|project| project.proxy_cache);
        if let Some(settings) = proxy_cache {
            if !call.is_read() {
                return Answer::method_not_allowed();
            }
            if let Some(redirect) = proxy_cache::redirect(call, name, settings) {
                return redirect;
            }
        }
        match resource {
            Resource::Manifest(reference) => self.manifest(call, name, reference, proxy_cache),
            Resource::Blob(digest) => self.blob(call, name, digest, proxy_cache),
            Resource::Uploads if call.method == Method::POST => {
                self.uploads.begin(call, name, &mut self.content)
            }
            Resource::Upload(id) => self.uploads.go_on(call, name, id, &mut self.content),
            Resource::Referrers(digest) if call.is_read() => {
                listing::referrers(call, self.content.repository(name), digest)
            }
            Resource::Tags if call.is_read() => listing::tags(call, name, self.content.repository(name)),
            Resource::Uploads | Resource::Referrers(_) | Resource::Tags => Answer::method_not_allowed(),
        }
    }

    fn manifest(
        &mut self,
        call: &Call,
        name: &str,
        reference: &str,
        proxy_cache: Option<ProxyCache>,
    ) -> Answer {
        match call.method {
            Method::PUT => return push::put_manifest(call, name, reference, &mut self.content),
            Method::DELETE => return listing::delete(name, self.content.repository_mut(name), reference),
            _ if !call.is_read() => return Answer::method_not_allowed(),
            _ => {}
        }
        if let Some(settings) = proxy_cache {
            let repository = self.content.repository_mut(name);
            let fetch = Fetch { call, name, repository, settings };
            if let Some(answer) = fetch.manifest(reference) {
                return answer;
            }
        }
        let policy = self.accounts.project(project_of(name)).and_then(|project| project.policy.as_deref());
        let repository = self.content.repository(name);
        manifests::Read { call, name, repository, policy }.answer(reference)
    }

    fn blob(&mut self, call: &Call, name: &str, digest: &str, proxy_cache: Option<ProxyCache>) -> Answer {
        if !call.is_read() {
            return Answer::method_not_allowed();
        }
        let Ok(digest) = digest.parse::<Digest>() else {
            return blobs::of_other_digest(call, digest, self.content.other_blob(name, digest));
        };
        if let Some(settings) = proxy_cache {
            let content = self.content.blob(name, digest).cloned();
            let repository = self.content.repository_mut(name);
            let fetch = Fetch { call, name, repository, settings };
            if let Some(answer) = fetch.blob(digest, content) {
                return answer;
            }
        }
        let (behaviour, urls) = (&self.behaviour, &self.urls);
        blobs::Read { call, digest, behaviour, urls }.answer(self.content.blob(name, digest))
    }
}
