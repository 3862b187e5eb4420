//! One client of one peer: it pulls an image through one of the front doors, as containerd
//! (mirror), dockerd (proxy) and people who cannot configure either (prefix) do, and
//! believes nothing that it has not hashed.

mod challenge;
mod door;
mod error;
mod image;
mod manifest;
mod progress;

use std::sync::Arc;

use bytes::Bytes;
use flotilla_peer::source::plain_prefix;
use flotilla_proto::Digest;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use crate::http::{HttpClient, empty};
use challenge::Credentials;
use manifest::{ACCEPTED, Manifest};

pub(crate) use challenge::Credentials as ClientCredentials;
pub(crate) use door::Door;
pub(crate) use error::PullError;
use error::{Cause, Subject};
pub(crate) use image::{Blobs, ImageReference, Reference};
pub(crate) use progress::NodeProgress;

/// What a client needs to know.
#[derive(Clone)]
pub(crate) struct ClientPlan {
    /// For the door, and for the token service that the registry names.
    pub(crate) http: HttpClient,
    /// The way to the registry.
    pub(crate) door: Door,
    /// What to pull.
    pub(crate) image: ImageReference,
    /// Whom the registry knows; anonymous otherwise.
    pub(crate) credentials: Option<Arc<Credentials>>,
    /// Where it reports bytes.
    pub(crate) progress: Arc<NodeProgress>,
}

/// What a client got: every blob complete, with the right SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PulledImage {
    /// Of the manifest behind the tag.
    pub(crate) manifest: Digest,
    /// Config and layers.
    pub(crate) blobs: Blobs,
}

/// Pulls the whole image: the manifest by tag, then config and layers, some at a time.
pub(crate) async fn pull(plan: ClientPlan) -> Result<PulledImage, PullError> {
    let client = Client { plan, authorization: Mutex::new(None) };
    let (manifest, blobs) = client.manifest().await?;
    client.plan.progress.expect(blobs.values().sum());
    let client = &client;
    futures_util::stream::iter(blobs.clone())
        .map(|(digest, len)| async move {
            client.blob(digest, len).await.map_err(|cause| Subject::Blob(digest).because(cause))
        })
        .buffer_unordered(BLOBS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(PulledImage { manifest, blobs })
}

struct Client {
    plan: ClientPlan,
    /// What the registry asked for, once it has: shared by the blobs that are fetched at once.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Client {
    /// The digest behind the reference, and the blobs of this machine's platform.
    async fn manifest(&self) -> Result<(Digest, Blobs), PullError> {
        let (digest, manifest) = self.one_manifest(&self.plan.image.reference).await?;
        let child = match manifest {
            Manifest::Image(blobs) => return Ok((digest, blobs)),
            Manifest::Index(index) => index.child_for_this_machine(),
        };
        let subject = Subject::Manifest(Reference::Digest(digest));
        let child = child.ok_or_else(|| subject.because(Cause::NoPlatform))?;
        match self.one_manifest(&Reference::Digest(child)).await? {
            (_, Manifest::Image(blobs)) => Ok((digest, blobs)),
            (child, Manifest::Index(_)) => {
                Err(Subject::Manifest(Reference::Digest(child)).because(Cause::NestedIndex))
            }
        }
    }

    async fn one_manifest(&self, reference: &Reference) -> Result<(Digest, Manifest), PullError> {
        let read = async {
            let response = self.get(&format!("manifests/{reference}")).await?;
            let stated = stated_digest(&response)?;
            let bytes = read_manifest(response).await?;
            let actual = Digest::of(&bytes);
            let wanted = match reference {
                Reference::Digest(digest) => Some(*digest),
                Reference::Tag(_) => stated,
            };
            if wanted.is_some_and(|wanted| wanted != actual) {
                return Err(Cause::WrongDigest { actual });
            }
            Ok((actual, Manifest::parse(&bytes)?))
        };
        read.await.map_err(|cause| Subject::Manifest(reference.clone()).because(cause))
    }

    /// Fetches a blob and hashes it; its bytes go nowhere.
    async fn blob(&self, digest: Digest, len: u64) -> Result<(), Cause> {
        let mut body = self.get(&format!("blobs/{digest}")).await?.into_body();
        let (mut received, mut hash) = (0, Sha256::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| Cause::Cut { received, len, source })?;
            let Some(data) = frame.data_ref() else { continue };
            hash.update(data);
            received += data.len() as u64;
            self.plan.progress.received(data.len() as u64);
        }
        if received != len {
            return Err(Cause::WrongLength { received, len });
        }
        let actual = Digest::from_bytes(hash.finalize().into());
        if actual == digest { Ok(()) } else { Err(Cause::WrongDigest { actual }) }
    }

    /// A 200 for `path` in the repository. One challenge is answered.
    async fn get(&self, path: &str) -> Result<Response<Incoming>, Cause> {
        let used = self.authorization.lock().await.clone();
        let response = self.get_with(path, used.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return accepted(response).await;
        }
        let fresh = {
            let mut authorization = self.authorization.lock().await;
            // Another fetch may have answered the same challenge in the meantime.
            if *authorization == used {
                let answer = challenge::answer(response.headers(), &self.plan).await?;
                let Some(answer) = answer else { return accepted(response).await };
                *authorization = Some(answer);
            }
            authorization.clone()
        };
        accepted(self.get_with(path, fresh).await?).await
    }

    async fn get_with(
        &self,
        path: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Cause> {
        let ClientPlan { http, door, image, .. } = &self.plan;
        let uri = door.url(image, path);
        let mut request = Request::new(empty());
        *request.uri_mut() = uri.parse::<Uri>().map_err(Cause::Uri)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(http.send(request).await?)
    }
}

/// The answer if it is a 200, else what the door says.
async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Cause> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let (_, body) = plain_prefix(response, MAX_ERROR_LEN).await;
    Err(Cause::refused(status, &String::from_utf8_lossy(&body)))
}

fn stated_digest(response: &Response<Incoming>) -> Result<Option<Digest>, Cause> {
    let Some(value) = response.headers().get("docker-content-digest") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    text.parse().map(Some).map_err(Cause::StatedDigest)
}

/// The manifest, decoded where a front end compressed it all the same. One that is cut short has
/// another digest, or does not parse.
async fn read_manifest(response: Response<Incoming>) -> Result<Bytes, Cause> {
    let (_, bytes) = plain_prefix(response, MAX_MANIFEST_LEN + 1).await;
    if bytes.len() > MAX_MANIFEST_LEN { Err(Cause::LongManifest) } else { Ok(bytes) }
}

/// containerd's `max_concurrent_downloads`.
const BLOBS_AT_ONCE: usize = 3;

/// Registries accept no longer ones (distribution spec, "Pushing Manifests").
const MAX_MANIFEST_LEN: usize = 4 * 1024 * 1024;

/// Of a refusal's body, for its message.
const MAX_ERROR_LEN: usize = 4096;

#[cfg(test)]
mod tests;
