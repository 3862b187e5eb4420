//! A registry on a free port that keeps a log of what it is asked, and fails on cue.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flotilla_proto::Digest;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The name that image references carry.
pub(crate) const HOST: &str = "registry.test";

/// Stops when dropped.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    content: Mutex<BTreeMap<String, Content>>,
    access: Mutex<Option<Access>>,
    fault_by_digest: Mutex<HashMap<String, Fault>>,
    /// Where paths redirect to.
    redirects: Mutex<HashMap<String, String>>,
    /// The digest that an answer for a path claims.
    claims: Mutex<HashMap<String, Digest>>,
    /// What `/token` issues for an `Authorization` header.
    tokens: Mutex<HashMap<String, String>>,
    log: Mutex<Vec<Asked>>,
    /// Nobody ever says `true`.
    never: watch::Sender<bool>,
}

#[derive(Clone)]
struct Content {
    media_type: &'static str,
    bytes: Bytes,
}

/// What a client shows of itself: its `Authorization`, else its session, an API key, or a token in the query.
fn shown(request: &Request<Incoming>) -> String {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let query = request.uri().query().unwrap_or_default();
    let token = || query.split('&').find_map(|pair| pair.strip_prefix("access_token=")).map(str::to_owned);
    let named = ["authorization", "cookie", "x-api-key"].into_iter().find_map(header);
    named.or_else(token).unwrap_or_default()
}

/// Who may read what; without one, anyone anything.
#[derive(Default)]
struct Access {
    challenge: &'static str,
    /// A whole `Authorization` header, and a repository.
    allowed: Vec<(String, String)>,
}

/// What goes wrong with one blob.
#[derive(Clone)]
pub(crate) enum Fault {
    /// As many bytes, and others.
    WrongBytes,
    /// The whole comes without a length, whatever range was asked for.
    NoLength,
    /// No answer, ever.
    Hang,
    /// This status, each time.
    Status(u16),
    /// The body stands still behind so many bytes until the sender says `true`.
    Gate(usize, watch::Receiver<bool>),
    /// No byte of the blob from this one on is ever sent, wherever the answer begins.
    UpTo(usize),
}

/// A request as the registry saw it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: String,
    pub(crate) range: Option<String>,
    pub(crate) via: String,
    pub(crate) status: StatusCode,
    sent: Arc<AtomicU64>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, Arc::clone(&serving)));
            }
        });
        Self { address, state, accepting }
    }

    /// An image of these layers; its manifest's text.
    pub(crate) fn push(&self, repository: &str, tag: &str, layers: &[&Bytes]) -> String {
        for layer in layers {
            self.push_blob(repository, layer);
        }
        let sized: Vec<_> = layers.iter().map(|layer| (Digest::of(layer), layer.len())).collect();
        self.push_manifest(repository, tag, &sized)
    }

    pub(crate) fn push_blob(&self, repository: &str, blob: &Bytes) {
        self.put(
            &format!("/v2/{repository}/blobs/{}", Digest::of(blob)),
            "application/octet-stream",
            blob.clone(),
        );
    }

    /// A manifest that lists these layers, whether the repository has them or not.
    pub(crate) fn push_manifest(&self, repository: &str, tag: &str, layers: &[(Digest, usize)]) -> String {
        let layers: Vec<_> = layers
            .iter()
            .map(|(digest, size)| serde_json::json!({ "mediaType": LAYER, "digest": digest.to_string(), "size": size }))
            .collect();
        let manifest =
            serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers }).to_string();
        self.put(&format!("/v2/{repository}/manifests/{tag}"), MANIFEST, manifest.clone().into());
        manifest
    }

    /// Content at a path of any kind.
    pub(crate) fn put(&self, path: &str, media_type: &'static str, bytes: Bytes) {
        self.state.content.lock().unwrap().insert(path.into(), Content { media_type, bytes });
    }

    /// From here on a credential is needed; the registry asks for it with `challenge`.
    pub(crate) fn protect(&self, challenge: &'static str) {
        *self.state.access.lock().unwrap() = Some(Access { challenge, allowed: Vec::new() });
    }

    pub(crate) fn allow(&self, credential: &str, repository: &str) {
        let mut access = self.state.access.lock().unwrap();
        access.as_mut().unwrap().allowed.push((credential.into(), repository.into()));
    }

    /// The credential is good no longer.
    pub(crate) fn expire(&self, credential: &str) {
        let mut access = self.state.access.lock().unwrap();
        access.as_mut().unwrap().allowed.retain(|(allowed, _)| allowed != credential);
    }

    /// The token service gives `token` for this `Authorization` header.
    pub(crate) fn issue(&self, credential: &str, token: &str) {
        self.state.tokens.lock().unwrap().insert(credential.into(), token.into());
    }

    /// What was at the path is there no longer.
    pub(crate) fn delete(&self, path: &str) {
        self.state.content.lock().unwrap().remove(path);
    }

    /// From here on the path is answered with 307.
    pub(crate) fn redirect(&self, path: &str, to: &str) {
        self.state.redirects.lock().unwrap().insert(path.into(), to.into());
    }

    /// What the registry says of itself at the path is another digest's.
    pub(crate) fn claim(&self, path: &str, digest: Digest) {
        self.state.claims.lock().unwrap().insert(path.into(), digest);
    }

    pub(crate) fn break_blob(&self, blob: &Bytes, fault: Fault) {
        self.state.fault_by_digest.lock().unwrap().insert(Digest::of(blob).to_string(), fault);
    }

    pub(crate) fn mend_blob(&self, blob: &Bytes) {
        self.state.fault_by_digest.lock().unwrap().remove(&Digest::of(blob).to_string());
    }

    /// Nobody listens any more, and whoever is connected is cut off.
    pub(crate) async fn stop(&mut self) {
        self.accepting.abort();
        // Aborted on purpose.
        let _ = (&mut self.accepting).await;
    }

    pub(crate) fn log(&self) -> Vec<Asked> {
        self.state.log.lock().unwrap().clone()
    }

    /// How often the blob's bytes were sent, in requests and in bytes; probes, which ask for
    /// one byte, are no reads.
    pub(crate) fn reads_of(&self, blob: &Bytes) -> (usize, u64) {
        let digest = Digest::of(blob).to_string();
        let log = self.log();
        let asked = log.iter().filter(|asked| asked.method == Method::GET && asked.path.ends_with(&digest));
        let reads = asked.filter(|asked| asked.range.as_deref() != Some("bytes=0-0"));
        let served: Vec<_> = reads.filter(|asked| asked.status.is_success()).collect();
        (served.len(), served.iter().map(|asked| asked.sent.load(Ordering::Relaxed)).sum())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(state.answer(&request).await) }
    });
    // A client that hangs up is an error here and part of the test there.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl State {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let header =
            |name| request.headers().get(name).map(|value: &http::HeaderValue| value.to_str().unwrap());
        let range = header(header::RANGE).map(str::to_owned);
        let credential = &shown(request);
        let digest = path.rsplit('/').next().unwrap_or_default();
        let fault = self.fault_by_digest.lock().unwrap().get(digest).cloned();
        let sent = Arc::new(AtomicU64::new(0));
        let mut response = match self.refusal(&path, credential).or_else(|| self.token(&path, credential)) {
            Some(answer) => answer,
            None if request.method() == Method::DELETE => self.delete(&path),
            None => self.content(&path, range.as_deref(), fault.clone(), &sent),
        };
        if let Some(claimed) = self.claims.lock().unwrap().get(&path) {
            let claimed = claimed.to_string().parse().unwrap();
            response.headers_mut().insert("docker-content-digest", claimed);
        }
        let digest = response.headers().get("docker-content-digest").map(|value| format!("{value:?}"));
        let tags = request.headers().get_all(header::IF_NONE_MATCH);
        if tags.iter().any(|tag| tag.to_str().ok() == digest.as_deref()) {
            response = Response::builder().status(304).body(text("")).unwrap();
        }
        if request.method() == Method::HEAD {
            *response.body_mut() = text("");
        }
        let asked = Asked {
            method: request.method().clone(),
            path,
            query: request.uri().query().unwrap_or_default().to_owned(),
            authorization: credential.to_owned(),
            range,
            via: header(header::VIA).unwrap_or_default().to_owned(),
            status: response.status(),
            sent,
        };
        // What a seed asks by itself, right after settings came, is nobody's.
        let agent = header(header::USER_AGENT).unwrap_or_default();
        if asked.path != "/v2/" || !agent.starts_with("flotilla/") {
            self.log.lock().unwrap().push(asked);
        }
        if let Some(Fault::Hang) = fault {
            std::future::pending::<()>().await;
        }
        response
    }

    fn refusal(&self, path: &str, credential: &str) -> Option<Response<Body>> {
        let access = self.access.lock().unwrap();
        let access = access.as_ref().filter(|_| path.starts_with("/v2/"))?;
        let allowed = |(allowed, repository): &(String, String)| {
            allowed == credential && path.starts_with(&format!("/v2/{repository}/"))
        };
        if access.allowed.iter().any(allowed) {
            return None;
        }
        let known = access.allowed.iter().any(|(allowed, _)| allowed == credential);
        if known && path == "/v2/" {
            return None;
        }
        let (status, body) = if known { (403, DENIED) } else { (401, UNAUTHORIZED) };
        let builder = Response::builder().status(status).header(header::WWW_AUTHENTICATE, access.challenge);
        Some(builder.body(text(body)).unwrap())
    }

    /// Answers for the token service, and where a path redirects to.
    fn token(&self, path: &str, credential: &str) -> Option<Response<Body>> {
        if let Some(to) = self.redirects.lock().unwrap().get(path) {
            return Some(
                Response::builder().status(307).header(header::LOCATION, to).body(text("")).unwrap(),
            );
        }
        if path != "/token" {
            return None;
        }
        Some(match self.tokens.lock().unwrap().get(credential) {
            Some(token) => Response::builder()
                .header(header::CONTENT_TYPE, "application/json")
                .body(text(&format!(r#"{{"token":"{token}"}}"#)))
                .unwrap(),
            None => Response::builder().status(401).body(text(UNAUTHORIZED)).unwrap(),
        })
    }

    fn delete(&self, path: &str) -> Response<Body> {
        let gone = self.content.lock().unwrap().remove(path);
        let (status, body) = if gone.is_some() { (202, "") } else { (404, UNKNOWN) };
        Response::builder().status(status).body(text(body)).unwrap()
    }

    fn content(
        &self,
        path: &str,
        range: Option<&str>,
        fault: Option<Fault>,
        sent: &Arc<AtomicU64>,
    ) -> Response<Body> {
        let content = self.content.lock().unwrap().get(path).cloned();
        if path == "/v2/" {
            return Response::new(text("{}"));
        }
        let Some(content) = content else {
            return Response::builder().status(404).body(text(UNKNOWN)).unwrap();
        };
        let len = content.bytes.len();
        let bytes = match fault {
            Some(Fault::WrongBytes) => content.bytes.iter().map(|byte| !byte).collect(),
            Some(Fault::NoLength | Fault::Hang | Fault::Status(_) | Fault::Gate(..) | Fault::UpTo(_))
            | None => content.bytes,
        };
        let gate = match fault {
            Some(Fault::Gate(after, open)) => Some((after, open)),
            Some(Fault::UpTo(end)) => {
                let first = range.map_or(0, |range| bounds(range, len).0);
                Some((end.saturating_sub(first), self.never.subscribe()))
            }
            Some(Fault::NoLength) => return Response::new(streamed(bytes, None, sent)),
            Some(Fault::Status(status)) => {
                return Response::builder().status(status).body(text(UNKNOWN)).unwrap();
            }
            Some(Fault::Hang | Fault::WrongBytes) | None => None,
        };
        let mut builder = Response::builder().header(header::CONTENT_TYPE, content.media_type);
        if path.contains("/manifests/") {
            builder = builder.header("docker-content-digest", Digest::of(&bytes).to_string());
        }
        let Some((first, last)) = range.map(|range| bounds(range, len)) else {
            let builder = builder.header(header::CONTENT_LENGTH, len);
            return builder.body(streamed(bytes, gate, sent)).unwrap();
        };
        if first >= len {
            return Response::builder().status(416).body(text("")).unwrap();
        }
        let part = bytes.slice(first..=last.min(len - 1));
        builder
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_LENGTH, part.len())
            .header(header::CONTENT_RANGE, format!("bytes {first}-{}/{len}", first + part.len() - 1))
            .body(streamed(part, gate, sent))
            .unwrap()
    }
}

/// Seeds ask for `bytes=a-b` and `bytes=a-` only.
fn bounds(range: &str, len: usize) -> (usize, usize) {
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap_or(len))
}

fn text(text: &str) -> Body {
    http_body_util::Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync()
}

/// The bytes in frames that are counted as they go out.
fn streamed(bytes: Bytes, gate: Option<(usize, watch::Receiver<bool>)>, sent: &Arc<AtomicU64>) -> Body {
    let frames = stream::unfold((bytes, gate, Arc::clone(sent)), |(mut rest, mut gate, sent)| async move {
        let done = usize::try_from(sent.load(Ordering::Relaxed)).unwrap();
        if let Some((after, open)) = &mut gate
            && done >= *after
        {
            // A gate whose sender is gone stays as it is.
            let _ = open.wait_for(|open| *open).await;
        }
        if rest.is_empty() {
            return None;
        }
        // None reaches beyond the gate.
        let before_gate =
            gate.as_ref().and_then(|(after, _)| after.checked_sub(done)).filter(|left| *left > 0);
        let most = before_gate.map_or(FRAME, |left| left.min(FRAME));
        let frame = rest.split_to(rest.len().min(most));
        sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Some((Ok(Frame::data(frame)), (rest, gate, sent)))
    });
    StreamBody::new(frames).boxed_unsync()
}

const FRAME: usize = 32 << 10;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

const DENIED: &str = r#"{"errors":[{"code":"DENIED","message":"the registry's own words"}]}"#;
const UNAUTHORIZED: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"the registry's own words"}]}"#;
const UNKNOWN: &str = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"the registry's own words"}]}"#;
