//! A read-only registry for one image, for machines without a `docker-registry`.

use std::io;
use std::sync::Arc;

use flotilla_proto::Digest;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::range::{self, Asked};
use crate::http::{Body, Server, empty, file, full, oci_error};
use crate::local::demo::generate::{GeneratedImage, MANIFEST_TYPE};
use crate::oci_client::ImageReference;

/// A running built-in registry; it ends when this is dropped.
pub(crate) struct BuiltInRegistry {
    server: Server,
}

impl BuiltInRegistry {
    /// Serves `image` under `name`.
    pub(crate) async fn start(image: Arc<GeneratedImage>, name: &ImageReference) -> io::Result<Self> {
        let content = Arc::new(Content {
            repository: format!("/v2/{}/", name.repository),
            tag: name.reference.to_string(),
            manifest_digest: Digest::of(&image.manifest),
            image,
        });
        let answer = move |request| {
            let content = Arc::clone(&content);
            async move { content.answer(request).await }
        };
        Ok(Self { server: Server::start(answer).await? })
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

struct Content {
    /// `/v2/<repository>/`.
    repository: String,
    tag: String,
    manifest_digest: Digest,
    image: Arc<GeneratedImage>,
}

impl Content {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return oci_error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only");
        }
        let path = request.uri().path();
        if path == "/v2/" {
            return Response::new(full("{}"));
        }
        let mut response = match path.strip_prefix(&self.repository).and_then(|rest| rest.split_once('/')) {
            Some(("manifests", reference)) => self.manifest(reference),
            Some(("blobs", digest)) => self.blob(digest, request.headers()).await,
            _ => oci_error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is no such repository"),
        };
        if request.method() == Method::HEAD {
            *response.body_mut() = empty();
        }
        response
    }

    fn manifest(&self, reference: &str) -> Response<Body> {
        if reference != self.tag && reference != self.manifest_digest.to_string() {
            return oci_error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "there is no such manifest");
        }
        let manifest = self.image.manifest.clone();
        let mut response = content(MANIFEST_TYPE, &self.manifest_digest, manifest.len() as u64);
        *response.body_mut() = full(manifest);
        response
    }

    async fn blob(&self, digest: &str, headers: &HeaderMap) -> Response<Body> {
        let unknown = || oci_error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "there is no such blob");
        let Ok(digest) = digest.parse::<Digest>() else { return unknown() };
        let Some(len) = self.image.blobs.get(&digest).copied() else { return unknown() };
        let asked = range::parse(headers.get(RANGE).and_then(|value| value.to_str().ok()), len);
        let (status, part) = match asked {
            Asked::Whole => (StatusCode::OK, 0..len),
            Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
            Asked::Unsatisfiable => {
                let mut response =
                    oci_error(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", "no such bytes");
                response.headers_mut().insert(CONTENT_RANGE, ascii(format!("bytes */{len}")));
                return response;
            }
        };
        let mut response = content("application/octet-stream", &digest, part.end - part.start);
        *response.status_mut() = status;
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            response.headers_mut().insert(CONTENT_RANGE, ascii(range));
        }
        match file(&self.image.path(&digest), part).await {
            Ok(body) => *response.body_mut() = body,
            Err(error) => return oci_error(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", &error.to_string()),
        }
        response
    }
}

/// The head of an answer with content.
fn content(media_type: &'static str, digest: &Digest, len: u64) -> Response<Body> {
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, len.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert("docker-content-digest", ascii(digest.to_string()));
    response
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and letters make a header")
}
