//! What is served while a registry is unreachable, where it is set so (DESIGN.md §9): what it granted
//! before, to whom it granted it, from what is here. A registry that answers 401, 403, 404 or 412
//! is reached, and obeyed.
//!
//! A client that needs a token for that is given the one it had: it opens nothing but the grants that
//! it opened before.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_daemon::settings::Offline;
use flotilla_proto::{CredentialHash, RegistryHost};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::{Answerer, holder};
use super::manifest::kept_answer;
use super::route::Target;
use crate::body;
use crate::http_wire::authorization;
use crate::source::{BodyStream, NO_TOKEN_SERVICE, Purpose, ReadCredential};

impl Answerer {
    /// How much longer than otherwise this registry's grants live; `None` where nothing is served
    /// without its word.
    pub(super) fn offline(&self, upstream: &RegistryHost) -> Option<Duration> {
        let settings = self.settings.borrow();
        match settings.upstream(upstream)?.offline {
            Offline::Refuse => None,
            Offline::Granted { longer } => Some(longer),
        }
    }

    /// The manifest that this credential was served for that reference, if it may have it still.
    pub(super) fn offline_manifest(
        &self,
        credential: &ReadCredential,
        reference: &str,
        asked: &Method,
    ) -> Option<Response<BodyStream>> {
        let longer = self.offline(&credential.upstream)?;
        let digest = self.grants.manifest(&holder(credential), reference, Instant::now(), longer)?;
        let manifest = self.manifests.find(digest)?;
        tracing::warn!(
            registry = %credential.upstream, repository = %credential.repository, reference,
            "the registry is unreachable; a manifest that it granted before is served"
        );
        Some(kept_answer(&manifest, asked))
    }

    /// Sends on a request that may be one for a token, and answers it from what was given before while
    /// nobody else does.
    pub(super) async fn through_token_service(
        &self,
        target: &Target,
        request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Response<BodyStream> {
        let Some(longer) = self.offline(&target.upstream) else {
            return self.forward(target, request, purpose).await.unwrap_or_else(|refused| refused);
        };
        let wish = Wish {
            upstream: target.upstream.clone(),
            credential: authorization(request.headers()).hash(),
            path: target.path.to_string(),
        };
        let answer = self.forward(target, request, purpose).await.unwrap_or_else(|refused| refused);
        if answer.status().is_server_error() {
            return self.kept_tokens.find(&wish, Instant::now()).map_or(answer, token_answer);
        }
        if answer.status() != StatusCode::OK || answer.headers().contains_key(NO_TOKEN_SERVICE) {
            return answer;
        }
        self.keep_token(wish, answer, longer).await
    }

    async fn keep_token(
        &self,
        wish: Wish,
        answer: Response<BodyStream>,
        longer: Duration,
    ) -> Response<BodyStream> {
        // A page that is no token's may be long.
        let length = answer.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let is_short =
            length.is_none_or(|length| length.parse().is_ok_and(|length: usize| length <= MAX_ANSWER));
        let media_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !is_short || !media_type.is_some_and(|media_type| media_type.starts_with("application/json")) {
            return answer;
        }
        let (head, body) = answer.into_parts();
        let Some(bytes) = body::read_whole(body, MAX_ANSWER).await else {
            return Response::from_parts(
                head,
                body::broken("a token service's answer is too long, or broke"),
            );
        };
        if let Ok(token) = serde_json::from_slice::<Token>(&bytes)
            && (token.token.is_some() || token.access_token.is_some())
        {
            let life = Duration::from_secs(token.expires_in.min(Offline::LONGEST.as_secs()));
            self.kept_tokens.keep(wish, bytes.clone(), Instant::now() + life + longer);
        }
        Response::from_parts(head, body::full(bytes))
    }
}

fn token_answer(bytes: Bytes) -> Response<BodyStream> {
    let mut response = Response::new(body::full(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What token services answered, by who asked for what. Never printed, in no file. Bounded: at
/// [`MAX_KEPT`] the one that ends first goes.
#[derive(Default)]
pub(crate) struct KeptTokens(Mutex<HashMap<Wish, (Bytes, Instant)>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Wish {
    upstream: RegistryHost,
    credential: CredentialHash,
    path: String,
}

impl KeptTokens {
    fn keep(&self, wish: Wish, answer: Bytes, until: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT && !kept.contains_key(&wish) {
            let ends_first = kept.iter().min_by_key(|(_, (_, until))| *until).map(|(wish, _)| wish.clone());
            kept.remove(&ends_first.expect("not empty"));
        }
        kept.insert(wish, (answer, until));
    }

    fn find(&self, wish: &Wish, now: Instant) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(wish).filter(|(_, until)| now < *until).map(|(answer, _)| answer.clone())
    }
}

/// A token service's answer, as far as it says that it is one.
#[derive(Deserialize)]
struct Token {
    token: Option<IgnoredAny>,
    access_token: Option<IgnoredAny>,
    #[serde(default)]
    expires_in: u64,
}

/// Answers of some KiB each.
const MAX_KEPT: usize = 4096;

/// Bytes of a token service's answer.
const MAX_ANSWER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use flotilla_proto::Authorization;

    use super::*;

    fn wish(credential: &'static str, path: usize) -> Wish {
        let credential = Authorization::new(credential).hash();
        Wish { upstream: "reg.test".parse().unwrap(), credential, path: path.to_string() }
    }

    #[test]
    fn a_token_is_given_again_to_whom_it_was_given_and_while_it_lives() {
        let (kept, now) = (KeptTokens::default(), Instant::now());
        kept.keep(wish("Basic a", 0), Bytes::from_static(b"{}"), now + Duration::from_secs(9));
        assert!(kept.find(&wish("Basic a", 0), now).is_some());
        assert!(
            kept.find(&wish("Basic b", 0), now).is_none() && kept.find(&wish("Basic a", 1), now).is_none()
        );
        assert!(kept.find(&wish("Basic a", 0), now + Duration::from_secs(9)).is_none());
        for path in 0..2 * MAX_KEPT {
            kept.keep(wish("Basic b", path), Bytes::new(), now + Duration::from_secs(60));
        }
        assert!(kept.0.lock().unwrap().len() <= MAX_KEPT);
        assert!(kept.find(&wish("Basic a", 0), now).is_none(), "it ended first");
    }
}
