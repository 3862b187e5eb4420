//! A manifest request: the registry decides about every one, and what it serves, it has granted.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use flotilla_daemon::settings::Offline;
use flotilla_proto::{Digest, RepositoryName};
use headers::{ContentLength, HeaderMapExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::answer::{Answerer, holder};
use super::blob::HEADER_TIME;
use super::error::{API_VERSION, refusal};
use super::flight::Held;
use super::prefetch;
use super::route::Target;
use super::weighing::Scales;
use crate::bare::besides;
use crate::body;
use crate::grant::{MAX_MANIFEST, Manifest, life};
use crate::http_wire::authorization;
use crate::source::{BodyStream, ReadCredential};

impl Answerer {
    /// The registry decides about every manifest; what it serves, it has granted.
    pub(super) async fn manifest(
        self: &Arc<Self>,
        target: &Target,
        repository: RepositoryName,
        reference: &str,
        mut request: Request<BodyStream>,
    ) -> Response<BodyStream> {
        if let Some(besides) = besides(request.headers(), target.path.query()) {
            self.bypasses.note(&target.upstream, besides);
            // The registry may have answered another than the holder of the credential.
            return self.pass(target, request).await;
        }
        let authorization = authorization(request.headers());
        let credential = ReadCredential { upstream: target.upstream.clone(), repository, authorization };
        let (asked, began_at) = (request.method().clone(), Instant::now());
        let scales = Scales::new(request.extensions());
        let known = single_tag(request.headers());
        let kept = self.to_revalidate(&credential, reference, &request);
        if let Some(kept) = &kept {
            request.headers_mut().insert(header::IF_NONE_MATCH, etag(kept));
        }
        let answer = self.pass(target, request).await;
        if let Some(kept) = kept.filter(|_| answer.status() == StatusCode::NOT_MODIFIED) {
            self.grant(&credential, reference, &kept);
            prefetch::begin(self, target, &credential, &kept);
            return scales.with_manifest(kept_head(&kept), &kept, None).await;
        }
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.revoke(&holder(&credential)),
            StatusCode::OK if asked == Method::GET => {
                return self.served(&scales, target, &credential, reference, answer).await;
            }
            StatusCode::OK => self.grant_known(&credential, reference, digest_of(answer.headers())),
            StatusCode::NOT_MODIFIED => self.grant_known(&credential, reference, known),
            status if status.is_server_error() => {
                if let Some(kept) = self.offline_manifest(&credential, reference) {
                    let head = kept_head(&kept);
                    return match asked {
                        Method::HEAD => head,
                        _ => scales.with_manifest(head, &kept, None).await,
                    };
                }
                let challenge = self.offline_challenge(target, &credential, began_at + HEADER_TIME);
                return challenge.await.unwrap_or(answer);
            }
            _ => {}
        }
        answer
    }

    /// The manifest that is sent from here if the registry says that it is still that one: where its pull
    /// counters need not see a whole GET, and the client takes that type of it.
    fn to_revalidate(
        &self,
        credential: &ReadCredential,
        reference: &str,
        request: &Request<BodyStream>,
    ) -> Option<Arc<Manifest>> {
        let is_counted = {
            let settings = self.settings.borrow();
            settings.upstream(&credential.upstream).is_none_or(|upstream| upstream.count_pulls)
        };
        let is_conditional = request.headers().contains_key(header::IF_NONE_MATCH);
        if is_counted || is_conditional || request.method() != Method::GET {
            return None;
        }
        let digest = reference.parse().ok();
        let digest = digest.or_else(|| {
            self.grants.manifest(&holder(credential), reference, Instant::now(), Offline::LONGEST)
        })?;
        let is_of_repository = self.served.contains(&credential.upstream, &credential.repository, digest);
        self.manifests.find(digest).filter(|kept| is_of_repository && accepts(request.headers(), kept))
    }

    /// A manifest on its way to the client, and what it grants.
    async fn served(
        self: &Arc<Self>,
        scales: &Scales,
        target: &Target,
        credential: &ReadCredential,
        reference: &str,
        answer: Response<BodyStream>,
    ) -> Response<BodyStream> {
        let Read { head, bytes, held } = match read(scales, target, answer).await {
            Ok(read) => read,
            Err(refused) => return refused,
        };
        let manifest = self.manifests.keep(head.headers.get(header::CONTENT_TYPE).cloned(), bytes);
        if reference.parse::<Digest>().is_ok_and(|asked| asked != manifest.digest) {
            let message = format!("{} sent another manifest than {reference}", target.upstream);
            return refusal(StatusCode::BAD_GATEWAY, "MANIFEST_INVALID", &message);
        }
        self.served.insert(credential.upstream.clone(), credential.repository.clone(), manifest.digest);
        self.grant(credential, reference, &manifest);
        prefetch::begin(self, target, credential, &manifest);
        scales.with_manifest(Response::from_parts(head, body::empty()), &manifest, held).await
    }

    /// An answer without a body says which manifest the credential may have. It opens no blobs but those of a
    /// manifest that came from this very repository: a word is not a manifest.
    fn grant_known(&self, credential: &ReadCredential, reference: &str, digest: Option<Digest>) {
        let Some(digest) = digest else { return };
        let is_of_repository = self.served.contains(&credential.upstream, &credential.repository, digest);
        match self.manifests.find(digest).filter(|_| is_of_repository) {
            Some(manifest) => self.grant(credential, reference, &manifest),
            // Whoever asks what a tag means goes on to ask for that manifest.
            None => self.grant_manifest(credential, reference, digest),
        }
    }

    fn grant(&self, credential: &ReadCredential, reference: &str, manifest: &Manifest) {
        let life = life(&credential.authorization, SystemTime::now());
        self.grants.record(holder(credential), manifest.blobs.iter().copied(), life, Instant::now());
        self.grant_manifest(credential, reference, manifest.digest);
    }

    fn grant_manifest(&self, credential: &ReadCredential, reference: &str, digest: Digest) {
        let life = life(&credential.authorization, SystemTime::now());
        self.grants.record_manifest(holder(credential), reference, digest, life, Instant::now());
    }
}

/// A manifest that was read, and what of the budget is held for it.
struct Read {
    head: http::response::Parts,
    bytes: Bytes,
    held: Option<Held>,
}

async fn read(
    scales: &Scales,
    target: &Target,
    answer: Response<BodyStream>,
) -> Result<Read, Response<BodyStream>> {
    let (head, body) = answer.into_parts();
    let told = head.headers.typed_get().and_then(|ContentLength(len)| usize::try_from(len).ok());
    let len = told.unwrap_or(MAX_MANIFEST).min(MAX_MANIFEST);
    let held = scales.hold(len).await?;
    let read = match told {
        Some(_) => body::read_told(body, len).await,
        None => body::read_whole(body, len).await,
    };
    let Some(bytes) = read else {
        let message =
            format!("{} sent a broken manifest, or one above {MAX_MANIFEST} bytes", target.upstream);
        return Err(refusal(StatusCode::BAD_GATEWAY, "MANIFEST_INVALID", &message));
    };
    Ok(Read { head, bytes, held })
}

/// The answer with a manifest that is here, as its registry would send it, but for its bytes.
fn kept_head(manifest: &Manifest) -> Response<BodyStream> {
    let mut response = Response::new(body::empty());
    let headers = response.headers_mut();
    if let Some(media_type) = &manifest.media_type {
        headers.insert(header::CONTENT_TYPE, media_type.clone());
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len()));
    headers.insert(header::ETAG, etag(manifest));
    let digest = HeaderValue::try_from(manifest.digest.to_string());
    headers.insert("docker-content-digest", digest.expect("a digest is visible characters"));
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

fn etag(manifest: &Manifest) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", manifest.digest)).expect("a digest is visible characters")
}

/// Whether a client names this manifest's very type: a registry that answers 304 may not have looked.
fn accepts(headers: &HeaderMap, manifest: &Manifest) -> bool {
    let Some(media_type) = manifest.media_type.as_ref().and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    types.any(|accepted| accepted.trim() == media_type)
}

/// The digest that an answer names itself by; Harbor's proxy-cache sends the header empty at first.
fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The one digest that a client says it has, quoted or bare: of several, in one line or more, a 304 means any.
fn single_tag(headers: &HeaderMap) -> Option<Digest> {
    let mut lines = headers.get_all(header::IF_NONE_MATCH).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let tag = line.to_str().ok()?.trim();
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_which_one_manifest_it_has() {
        let digest = Digest::of(b"{}");
        let tag = |value: String| {
            single_tag(&[(header::IF_NONE_MATCH, value.parse().unwrap())].into_iter().collect())
        };
        assert_eq!(tag(format!("\"{digest}\"")), Some(digest));
        assert_eq!(tag(format!(" {digest}")), Some(digest));
        for several in [format!("\"{digest}\", \"{digest}\""), format!("W/\"{digest}\""), "*".to_owned()] {
            assert_eq!(tag(several.clone()), None, "{several}");
        }
        assert_eq!(single_tag(&HeaderMap::new()), None);
        let mut lines = HeaderMap::new();
        for line in [format!("\"{digest}\""), "\"other\"".to_owned()] {
            lines.append(header::IF_NONE_MATCH, line.parse().unwrap());
        }
        assert_eq!(single_tag(&lines), None, "two lines are several");
    }

    #[test]
    fn an_empty_digest_is_none() {
        let headers = |value: &'static str| {
            [(header::HeaderName::from_static("docker-content-digest"), HeaderValue::from_static(value))]
                .into_iter()
                .collect()
        };
        assert_eq!(digest_of(&headers("")), None);
        assert_eq!(digest_of(&headers(" ")), None);
    }
}
