//! What is served while a registry is unreachable, where it is set so (docs/design.md §7): what it granted
//! before, to whom it granted it, from what is here. A registry that answers 401, 403, 404 or 412
//! is reached, and obeyed.
//!
//! A client that needs a token for that is given the one it had: it opens nothing but the grants that it
//! opened before, or that another token did which the same credential was given for the same scope.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_daemon::registry_auth::TokenAnswer;
use flotilla_daemon::settings::Offline;
use flotilla_proto::{Authorization, CredentialHash, Digest, RegistryHost};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::time::timeout_at;

use super::answer::{Answerer, holder};
use super::route::Target;
use crate::bare::is_bare;
use crate::body;
use crate::grant::{Holder, Manifest};
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
    ) -> Option<Arc<Manifest>> {
        let (longer, now) = (self.offline(&credential.upstream)?, Instant::now());
        let mut holders = self.offline_holders(credential).into_iter();
        let digest = holders.find_map(|holder| self.grants.manifest(&holder, reference, now, longer))?;
        if !self.served.contains(&credential.upstream, &credential.repository, digest) {
            return None;
        }
        let manifest = self.manifests.find(digest)?;
        tracing::warn!(
            registry = %credential.upstream, repository = %credential.repository, reference,
            "the registry is unreachable; a manifest that it granted before is served"
        );
        Some(manifest)
    }

    /// The blob's size, if this credential was granted it, and may have it still.
    pub(super) fn offline_size(&self, credential: &ReadCredential, digest: Digest) -> Option<u64> {
        let (longer, now) = (self.offline(&credential.upstream)?, Instant::now());
        let mut holders = self.offline_holders(credential).into_iter();
        holders.find_map(|holder| self.grants.find(&holder, digest, now, longer))
    }

    /// Whom a grant may be for: this credential, or a token that was given for the same wish. containerd
    /// asks for one token to resolve a tag and for another to fetch, and offline is given one twice.
    fn offline_holders(&self, credential: &ReadCredential) -> Vec<Holder> {
        let own = holder(credential);
        let given = self.kept_tokens.given_with(&own.upstream, own.credential, Instant::now());
        let others = given.into_iter().map(|credential| Holder { credential, ..own.clone() });
        others.chain([own.clone()]).collect()
    }

    /// The registry refused this credential: what it was granted is void, and so is what was granted to
    /// others as whom it could pull.
    pub(super) fn revoke(&self, holder: &Holder) {
        self.grants.revoke(holder);
        self.kept_tokens.forget(&holder.upstream, holder.credential);
    }

    /// What `/v2/` says to whoever came without a credential: containerd and its like show theirs only to
    /// a registry that has asked for it.
    pub(super) async fn offline_challenge(
        &self,
        target: &Target,
        credential: &ReadCredential,
        deadline: Instant,
    ) -> Option<Response<BodyStream>> {
        if !credential.authorization.is_anonymous() {
            return None;
        }
        self.offline(&target.upstream)?;
        let base = Target { path: PathAndQuery::from_static("/v2/"), ..target.clone() };
        let asked = self.forward(&base, Request::new(body::empty()), Purpose::Pass);
        let answer = timeout_at(deadline.into(), asked).await.ok()?.ok()?;
        (answer.status() == StatusCode::UNAUTHORIZED).then_some(answer)
    }

    /// Sends on a request that may be one for a token, and answers it from what was given before while
    /// nobody else does.
    pub(super) async fn through_token_service(
        &self,
        target: &Target,
        mut request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Response<BodyStream> {
        let is_bare = is_bare(request.headers(), target.path.query());
        let Some(longer) = self.offline(&target.upstream).filter(|_| is_bare) else {
            return self.forward(target, request, purpose).await.unwrap_or_else(|refused| refused);
        };
        let wish = Wish {
            upstream: target.upstream.clone(),
            credential: authorization(request.headers()).hash(),
            path: target.path.path().to_owned(),
            asked: asked(target.path.query().unwrap_or_default()),
        };
        // What is kept must be read.
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
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
        if let Some(token) = TokenAnswer::parse(&bytes) {
            let shown = Authorization::new(token.header().as_bytes().to_vec()).hash();
            self.kept_tokens.keep(wish, shown, bytes.clone(), Instant::now() + token.life() + longer);
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
pub(crate) struct KeptTokens(Mutex<HashMap<Wish, Kept>>);

/// What was given for one wish.
struct Kept {
    /// The last answer.
    answer: Bytes,
    until: Instant,
    /// The tokens, the last one at the end, each with its end. At [`MAX_GIVEN`] the first one goes.
    given: VecDeque<(CredentialHash, Instant)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Wish {
    upstream: RegistryHost,
    credential: CredentialHash,
    path: String,
    asked: BTreeSet<(String, String)>,
}

/// What a token is asked for, whatever the order. containerd names its repository's scope beside the challenge's:
/// twice the same, or once where the challenge had none.
fn asked(query: &str) -> BTreeSet<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

impl Kept {
    fn gave(&self, shown: CredentialHash) -> bool {
        self.given.iter().any(|(token, _)| *token == shown)
    }
}

impl KeptTokens {
    /// Keeps an answer, whose token clients show as `shown`.
    fn keep(&self, wish: Wish, shown: CredentialHash, answer: Bytes, until: Instant) {
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT && !kept.contains_key(&wish) {
            let ends_first = kept.iter().min_by_key(|(_, kept)| kept.until).map(|(wish, _)| wish.clone());
            kept.remove(&ends_first.expect("not empty"));
        }
        let fresh = || Kept { answer: Bytes::new(), until, given: VecDeque::new() };
        let kept = kept.entry(wish).or_insert_with(fresh);
        (kept.answer, kept.until) = (answer, until);
        if kept.given.len() >= MAX_GIVEN {
            kept.given.pop_front();
        }
        kept.given.push_back((shown, until));
    }

    fn find(&self, wish: &Wish, now: Instant) -> Option<Bytes> {
        let kept = self.lock();
        kept.get(wish).filter(|kept| now < kept.until).map(|kept| kept.answer.clone())
    }

    /// The tokens that were given for the wish that this one was given for, and have not ended.
    fn given_with(
        &self,
        upstream: &RegistryHost,
        shown: CredentialHash,
        now: Instant,
    ) -> Vec<CredentialHash> {
        let kept = self.lock();
        let of_upstream = kept.iter().filter(|(wish, _)| wish.upstream == *upstream);
        let mut lists = of_upstream.map(|(_, kept)| kept).filter(|kept| kept.gave(shown));
        let given = lists.next().into_iter().flat_map(|kept| &kept.given);
        given.filter(|(_, until)| now < *until).map(|(token, _)| *token).collect()
    }

    /// Nothing is given, or served, any more for the wish that this token was given for.
    fn forget(&self, upstream: &RegistryHost, shown: CredentialHash) {
        self.lock().retain(|wish, kept| wish.upstream != *upstream || !kept.gave(shown));
    }

    /// Held for one look-up or change.
    fn lock(&self) -> MutexGuard<'_, HashMap<Wish, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers of some KiB each.
const MAX_KEPT: usize = 4096;

/// Tokens for one wish: a pull takes one or two.
const MAX_GIVEN: usize = 32;

/// Bytes of a token service's answer.
const MAX_ANSWER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use flotilla_proto::Authorization;

    use super::*;

    fn wish(credential: &'static str, path: usize) -> Wish {
        let credential = Authorization::new(credential).hash();
        Wish {
            upstream: "reg.test".parse().unwrap(),
            credential,
            path: path.to_string(),
            asked: BTreeSet::new(),
        }
    }

    fn shown(token: usize) -> CredentialHash {
        Authorization::new(format!("Bearer {token}")).hash()
    }

    #[test]
    fn a_token_is_given_again_to_whom_it_was_given_and_while_it_lives() {
        let (kept, now) = (KeptTokens::default(), Instant::now());
        kept.keep(wish("Basic a", 0), shown(0), Bytes::from_static(b"{}"), now + Duration::from_secs(9));
        assert!(kept.find(&wish("Basic a", 0), now).is_some());
        assert!(
            kept.find(&wish("Basic b", 0), now).is_none() && kept.find(&wish("Basic a", 1), now).is_none()
        );
        assert!(kept.find(&wish("Basic a", 0), now + Duration::from_secs(9)).is_none());
        for path in 0..2 * MAX_KEPT {
            kept.keep(wish("Basic b", path), shown(path), Bytes::new(), now + Duration::from_secs(60));
        }
        assert!(kept.lock().len() <= MAX_KEPT);
        assert!(kept.find(&wish("Basic a", 0), now).is_none(), "it ended first");
    }

    #[test]
    fn tokens_go_together_that_one_credential_was_given_for_one_wish() {
        let (kept, now, host) = (KeptTokens::default(), Instant::now(), "reg.test".parse().unwrap());
        let ends_at = |seconds| now + Duration::from_secs(seconds);
        for (whose, path, token, end) in
            [("Basic a", 0, 1, 5), ("Basic a", 0, 2, 9), ("Basic a", 1, 3, 9), ("Basic b", 0, 4, 9)]
        {
            kept.keep(wish(whose, path), shown(token), Bytes::new(), ends_at(end));
        }
        let with = |token, now| kept.given_with(&host, shown(token), now);
        assert_eq!(with(2, now), [shown(1), shown(2)]);
        assert_eq!(with(2, ends_at(5)), [shown(2)], "the other has ended");
        assert_eq!((with(3, now), with(4, now)), (vec![shown(3)], vec![shown(4)]));
        assert_eq!(with(5, now), [], "given to nobody");
        for token in 10..10 + 2 * MAX_GIVEN {
            kept.keep(wish("Basic a", 0), shown(token), Bytes::new(), ends_at(9));
        }
        assert_eq!(with(9 + 2 * MAX_GIVEN, now).len(), MAX_GIVEN);
        kept.forget(&host, shown(3));
        assert_eq!(with(3, now), []);
        assert!(
            kept.find(&wish("Basic a", 1), now).is_none() && kept.find(&wish("Basic a", 0), now).is_some()
        );
    }

    #[test]
    fn what_is_asked_for_twice_is_asked_for() {
        let once = asked("service=reg&scope=repository:app:pull");
        assert_eq!(asked("scope=repository%3Aapp%3Apull&service=reg&scope=repository:app:pull"), once);
        assert_ne!(asked("service=reg&scope=repository:app:pull,push"), once);
    }
}
