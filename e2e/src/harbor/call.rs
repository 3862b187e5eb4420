//! A request as the core sees it, and what its path asks for.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Method};

/// Which of the two hosts a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// Harbor itself.
    Registry,
    /// The object store that Harbor may send blob reads to.
    Storage,
}

/// One request, read whole.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) host: Host,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) at: SystemTime,
}

/// What a path of the registry's asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// `/v2/`
    Base,
    /// `/service/token`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// Something of a repository, whose name has a project and at least one component more.
    Repository(&'a str, Resource<'a>),
    /// Anything else.
    Unknown,
}

/// What a repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    /// By tag or digest.
    Manifest(&'a str),
    /// By digest.
    Blob(&'a str),
    /// Where uploads begin.
    Uploads,
    /// One upload, by its id.
    Upload(&'a str),
    /// The referrers of a digest.
    Referrers(&'a str),
    /// The list of tags.
    Tags,
}

/// What an `Authorization` header holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential<'a> {
    None,
    Basic { name: String, secret: String },
    Bearer(&'a str),
    Unreadable,
}

impl Call {
    /// A header's one value; of several the first.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// GET or HEAD.
    pub(super) fn is_read(&self) -> bool {
        self.method == Method::GET || self.is_head()
    }

    /// All values of one key of the query.
    pub(super) fn query_values(&self, key: &str) -> Vec<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| percent_decode(value)).collect()
    }

    /// The first value of one key of the query.
    pub(super) fn query_value(&self, key: &str) -> Option<String> {
        self.query_values(key).into_iter().next()
    }

    /// What the request shows that may stand for an account, besides `Authorization`: cookies, an API key, a token in
    /// the query.
    pub(super) fn sessions(&self) -> Vec<String> {
        let cookies = self.header("cookie").unwrap_or_default();
        let cookies = cookies.split(';').filter_map(|pair| pair.split_once('='));
        let mut shown: Vec<String> = cookies.map(|(_, value)| value.trim().to_owned()).collect();
        shown.extend(self.header("x-api-key").map(str::to_owned));
        shown.extend(self.query_values("access_token"));
        shown
    }

    pub(super) fn route(&self) -> Route<'_> {
        route(&self.path)
    }

    pub(super) fn credential(&self) -> Credential<'_> {
        let Some(value) = self.headers.get(AUTHORIZATION) else { return Credential::None };
        let Some((scheme, rest)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
            return Credential::Unreadable;
        };
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Credential::Bearer(rest.trim()),
            "basic" => basic(rest.trim()).unwrap_or(Credential::Unreadable),
            _ => Credential::Unreadable,
        }
    }
}

/// The project of a repository: its name's first component.
pub(super) fn project_of(repository: &str) -> &str {
    repository.split('/').next().unwrap_or(repository)
}

fn route(path: &str) -> Route<'_> {
    match path {
        "/v2/" | "/v2" => Route::Base,
        "/service/token" => Route::Token,
        "/v2/_catalog" => Route::Catalog,
        _ => path.strip_prefix("/v2/").and_then(repository_route).unwrap_or(Route::Unknown),
    }
}

/// A repository's name may contain every word that parts it from its resource, so the last
/// one parts.
fn repository_route(rest: &str) -> Option<Route<'_>> {
    let (name, resource) = if let Some(name) = rest.strip_suffix("/tags/list") {
        (name, Resource::Tags)
    } else if let Some(name) = rest.strip_suffix("/blobs/uploads/").or(rest.strip_suffix("/blobs/uploads")) {
        (name, Resource::Uploads)
    } else if let Some((name, id)) = rest.rsplit_once("/blobs/uploads/") {
        (name, Resource::Upload(id))
    } else {
        let (front, last) = rest.rsplit_once('/')?;
        let (name, word) = front.rsplit_once('/')?;
        let resource = match word {
            "manifests" => Resource::Manifest(last),
            "blobs" => Resource::Blob(last),
            "referrers" => Resource::Referrers(last),
            _ => return None,
        };
        (name, resource)
    };
    let (project, image) = name.split_once('/')?;
    (!project.is_empty() && !image.is_empty()).then_some(Route::Repository(name, resource))
}

fn basic(encoded: &str) -> Option<Credential<'static>> {
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (name, secret) = text.split_once(':')?;
    Some(Credential::Basic { name: name.to_owned(), secret: secret.to_owned() })
}

/// What is no escape stays as it is.
fn percent_decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = (byte == b'%').then(|| after.get(..2)).flatten();
        let escaped = escape.and_then(|pair| hex::decode(pair).ok());
        rest = if escaped.is_some() { &after[2..] } else { after };
        decoded.push(match (escaped.as_deref(), byte) {
            (Some(&[value]), _) => value,
            (_, b'+') => b' ',
            (_, byte) => byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_repository_and_what_of_it() {
        let cases = [
            ("/v2/", Route::Base),
            ("/service/token", Route::Token),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/p/a/manifests/v1", Route::Repository("p/a", Resource::Manifest("v1"))),
            ("/v2/p/a/b/blobs/sha256:1", Route::Repository("p/a/b", Resource::Blob("sha256:1"))),
            ("/v2/p/blobs/blobs/sha256:1", Route::Repository("p/blobs", Resource::Blob("sha256:1"))),
            ("/v2/p/a/blobs/uploads/", Route::Repository("p/a", Resource::Uploads)),
            ("/v2/p/a/blobs/uploads/7", Route::Repository("p/a", Resource::Upload("7"))),
            ("/v2/p/a/tags/list", Route::Repository("p/a", Resource::Tags)),
            ("/v2/p/a/referrers/sha256:1", Route::Repository("p/a", Resource::Referrers("sha256:1"))),
            ("/v2/p/manifests/v1", Route::Unknown),
            ("/v2/p/a/other/v1", Route::Unknown),
            ("/api/v2.0/projects", Route::Unknown),
        ];
        for (path, expected) in cases {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn a_query_is_decoded() {
        assert_eq!(percent_decode("repository%3Ap%2Fa%3apull+x%zz%"), "repository:p/a:pull x%zz%");
    }
}
