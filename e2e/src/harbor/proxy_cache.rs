//! Projects that fetch from another registry what they are asked for (§2.3, §2.7).
//!
//! What is published into such a project is what upstream has. A blob is local once it was sent
//! whole; an image once its manifest was read and all its blobs are local; an index once all
//! that it lists are. Reads that go upstream are not counted as pulls.

use std::collections::BTreeSet;

use bytes::Bytes;
use flotilla_proto::Digest;
use hyper::{Method, StatusCode};

use super::answer::{Answer, Effect};
use super::blobs;
use super::call::Call;
use super::content::Repository;
use super::faults::flip_bit;
use super::manifests;
use super::ranges::OCTETS;

/// What kind of proxy-cache project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProxyCache {
    /// Upstream is Docker Hub: a name of one component is sent to `library/`.
    pub library: bool,
    /// What comes from upstream has `Content-Length` and digest, as since 2.16; otherwise it is
    /// chunked.
    pub states_length: bool,
    /// How upstream is.
    pub upstream: Upstream,
}

/// How the registry is that a proxy-cache project reads from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Upstream {
    /// As it should be.
    #[default]
    Up,
    /// It does not answer.
    Down,
    /// It has had enough requests.
    Busy,
    /// Its blobs have a wrong bit, which Harbor does not notice.
    Wrong,
}

/// What the fake has read from upstream for one repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpstreamReads {
    /// Of manifests, HEAD or GET.
    pub manifests: u64,
    /// Of whole blobs: two for each answer, one of which fills the cache.
    pub blobs: u64,
}

/// What a repository has fetched.
#[derive(Debug, Default)]
pub(super) struct Cache {
    pub(super) blobs: BTreeSet<Digest>,
    manifests: BTreeSet<Digest>,
    tags: BTreeSet<String>,
    pub(super) reads: UpstreamReads,
}

/// A read from a repository of such a project.
pub(super) struct Fetch<'a> {
    pub(super) call: &'a Call,
    pub(super) name: &'a str,
    pub(super) repository: &'a mut Repository,
    pub(super) settings: ProxyCache,
}

/// Where a read of `name` goes instead, if it does.
pub(super) fn redirect(call: &Call, name: &str, settings: ProxyCache) -> Option<Answer> {
    let (project, image) = name.split_once('/')?;
    if !settings.library || image.contains('/') {
        return None;
    }
    let rest = call.path.strip_prefix("/v2/")?.strip_prefix(name)?;
    let query = if call.query.is_empty() { String::new() } else { format!("?{}", call.query) };
    let location = format!("/v2/{project}/library/{image}{rest}{query}");
    Some(Answer::new(StatusCode::MOVED_PERMANENTLY).with("location", &location))
}

impl Fetch<'_> {
    /// The answer about a manifest that upstream must give, or none if Harbor's own will do.
    pub(super) fn manifest(self, reference: &str) -> Option<Answer> {
        let Self { call, name, repository, settings } = self;
        let is_tag = reference.parse::<Digest>().is_err();
        let found = repository.manifest(reference).map(|(digest, manifest)| (digest, manifest.clone()));
        if is_tag {
            repository.cache.reads.manifests += 1;
        }
        if found.as_ref().is_some_and(|(digest, _)| is_local(repository, *digest)) {
            return None;
        }
        let Some((digest, manifest)) = found.filter(|_| settings.upstream != Upstream::Down) else {
            return Some(manifests::not_found(name, reference));
        };
        if settings.upstream == Upstream::Busy {
            return Some(busy());
        }
        let answer = Answer::ok(&manifest.media_type, manifest.content).about(digest);
        if call.method != Method::GET {
            return Some(answer);
        }
        repository.cache.reads.manifests += 1;
        repository.cache.manifests.insert(digest);
        if is_tag && repository.cache.tags.insert(reference.to_owned()) {
            return Some(answer.with("docker-content-digest", "").with("etag", ""));
        }
        Some(answer)
    }

    /// The answer about a blob that upstream must give, or none if Harbor's own will do: the
    /// whole of it with 200, whatever range was asked for.
    pub(super) fn blob(self, digest: Digest, content: Option<Bytes>) -> Option<Answer> {
        let Self { call, name, repository, settings } = self;
        if repository.cache.blobs.contains(&digest) {
            return None;
        }
        let Some(content) = content.filter(|_| !call.is_head()) else {
            return Some(blobs::not_found(digest));
        };
        let (content, effect) = match settings.upstream {
            Upstream::Up => (content, Some(Effect::Cache(name.to_owned(), digest))),
            Upstream::Wrong => (flip_bit(&content), None),
            Upstream::Down => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Some(Answer::error(status, "UNKNOWN", "internal server error"));
            }
            Upstream::Busy => return Some(busy()),
        };
        repository.cache.reads.blobs += 2;
        let answer = Answer { digest: Some(digest), effect, ..Answer::ok(OCTETS, content) };
        if settings.states_length { Some(answer.about(digest)) } else { Some(blobs::without_length(answer)) }
    }
}

fn is_local(repository: &Repository, digest: Digest) -> bool {
    let Some(manifest) = repository.manifest_by_digest.get(&digest) else { return false };
    let cache = &repository.cache;
    cache.manifests.contains(&digest)
        && manifest.blobs().iter().all(|blob| cache.blobs.contains(blob))
        && manifest.children().into_iter().all(|child| is_local(repository, child))
}

fn busy() -> Answer {
    let message = "too many requests to upstream";
    Answer::error(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUEST", message)
}
