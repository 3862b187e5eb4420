//! The counting hop: a reverse proxy in front of the registry that counts what the registry
//! sends of blobs. Its count is the demo's proof; the peers' own word is not asked.
//!
//! It is the region's endpoint, in plain HTTP on loopback, and passes everything on as it
//! comes, but for two things: `Host` becomes the registry's own, and a blob that the registry
//! keeps elsewhere is fetched from there, so that its bytes pass here too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, AUTHORIZATION, HOST, HeaderName, LOCATION};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use crate::http::{Body, HttpClient, RequestError, Server, empty, oci_error};

/// A running hop; it ends when this is dropped.
pub(crate) struct Hop {
    server: Server,
    count: Arc<Count>,
}

/// What has passed so far.
#[derive(Debug, Default)]
pub(crate) struct Count {
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Hop {
    /// Starts one in front of the registry at `url`, which it reaches with `http`.
    pub(crate) async fn start(url: String, http: HttpClient) -> anyhow::Result<Self> {
        let count = Arc::new(Count::default());
        let registry = Arc::new(Passage { http, url, count: Arc::clone(&count) });
        let answer = move |request| {
            let registry = Arc::clone(&registry);
            async move { registry.pass(request).await }
        };
        let server = Server::start(answer).await.context("start the counting hop")?;
        Ok(Self { server, count })
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// What has passed so far.
    pub(crate) fn count(&self) -> &Count {
        &self.count
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

impl Count {
    /// Bytes of blobs in the bodies of answers, sent on to the region.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Requests that the registry answered with a blob, or a part of one.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

struct Passage {
    http: HttpClient,
    url: String,
    count: Arc<Count>,
}

impl Passage {
    async fn pass(&self, request: Request<Incoming>) -> Response<Body> {
        let reads_blob = is_blob(request.uri().path()) && request.method() == Method::GET;
        match self.forward(request).await {
            Ok(response) if reads_blob && response.status().is_success() => self.counted(response),
            Ok(response) => response.map(boxed),
            Err(error) => {
                oci_error(StatusCode::BAD_GATEWAY, "UNAVAILABLE", &format!("{}: {error}", self.url))
            }
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Incoming>, ForwardError> {
        let (head, body) = request.into_parts();
        let may_follow = is_blob(head.uri.path()) && [Method::GET, Method::HEAD].contains(&head.method);
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut uri: Uri = format!("{}{target}", self.url).parse().map_err(ForwardError::Target)?;
        let mut headers = end_to_end(head.headers);
        let mut body = boxed(body);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(body);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            let mut response = self.http.send(request).await?;
            *response.headers_mut() = end_to_end(std::mem::take(response.headers_mut()));
            let Some(location) = location(&uri, &response).filter(|_| may_follow) else {
                return Ok(response);
            };
            // The credential is the registry's, not its storage's.
            headers.remove(AUTHORIZATION);
            uri = location;
            body = empty();
        }
        Err(ForwardError::TooManyRedirects)
    }

    fn counted(&self, response: Response<Incoming>) -> Response<Body> {
        self.count.requests.fetch_add(1, Ordering::Relaxed);
        let count = Arc::clone(&self.count);
        response.map(|body| {
            let counting = body.map_frame(move |frame| {
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                count.bytes.fetch_add(len, Ordering::Relaxed);
                frame
            });
            counting.map_err(Into::into).boxed_unsync()
        })
    }
}

fn boxed(body: Incoming) -> Body {
    body.map_err(Into::into).boxed_unsync()
}

/// `/v2/<repository>/blobs/<algorithm>:<hex>`.
fn is_blob(path: &str) -> bool {
    let mut components = path.rsplit('/');
    let digest = components.next().is_some_and(|last| last.contains(':'));
    digest && components.next() == Some("blobs") && path.starts_with("/v2/")
}

/// Where a redirect leads; `None` if the answer is none, or leads nowhere that HTTP goes.
fn location(from: &Uri, response: &Response<Incoming>) -> Option<Uri> {
    if !response.status().is_redirection() {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let uri: Uri = match location.strip_prefix('/') {
        Some(path) => format!("{}://{}/{path}", from.scheme()?, from.authority()?).parse().ok()?,
        None => location.parse().ok()?,
    };
    uri.authority().is_some().then_some(uri)
}

/// Without what belongs to one connection (RFC 9110 §7.6.1); `Host` follows from the URI.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&[HOST]).chain(&OF_ONE_CONNECTION) {
        headers.remove(name);
    }
    headers
}

const OF_ONE_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Registries need one.
const MAX_REDIRECTS: usize = 5;

/// Why a request did not get through.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("no such target")]
    Target(#[source] hyper::http::uri::InvalidUri),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
}
