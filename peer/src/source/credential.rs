//! With whose credential a blob is read: the list grows while the reading goes on, and each
//! asker learns the registry's verdict on its own credential as soon as there is one.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{Authorization, CredentialHash, RegistryHost, RepositoryName};
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::watch;

use super::encoding::plain_prefix;
use super::failure::EndpointFailure;
use super::forward::ForwardError;
use super::header as wire;

/// A credential and the repository it is to be used for.
#[derive(Debug, Clone)]
pub struct ReadCredential {
    /// The registry.
    pub upstream: RegistryHost,
    /// The repository that should hold the blob.
    pub repository: RepositoryName,
    /// The client's own header.
    pub authorization: Authorization,
}

impl ReadCredential {
    fn key(&self) -> Key {
        Key {
            upstream: self.upstream.clone(),
            repository: self.repository.clone(),
            credential: self.authorization.hash(),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    upstream: RegistryHost,
    repository: RepositoryName,
    credential: CredentialHash,
}

/// What a registry said to one credential for one blob.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It served the blob, or a part of it.
    Accepted,
    /// It refused, in these words. The credential is not used again in this reading.
    Refused(Arc<RegistryAnswer>),
    /// It gave nothing, and no verdict either. The next reading tries it again.
    Failed(Arc<PlaceFailure>),
}

/// How the place of one credential let a reading down.
#[derive(Debug, Clone)]
pub struct PlaceFailure {
    /// The URL of the endpoint that failed last.
    pub endpoint: String,
    /// How.
    pub cause: EndpointFailure,
}

impl PlaceFailure {
    /// As the failure of a request to that registry.
    pub(crate) fn of(&self, upstream: &RegistryHost) -> ForwardError {
        let Self { endpoint, cause } = self.clone();
        ForwardError::Endpoint { upstream: upstream.clone(), endpoint, cause }
    }
}

/// A registry's refusal, to be relayed to the client whose credential it was.
#[derive(Clone)]
pub struct RegistryAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers without those of the connection and without `Content-Length`.
    pub headers: HeaderMap,
    /// The body's first 64 KiB.
    pub body: Bytes,
}

impl RegistryAnswer {
    /// How much of a refusal's body is kept, in bytes.
    pub const MAX_BODY: usize = 64 << 10;

    /// As it is relayed.
    pub(crate) fn to_response(&self) -> Response<Bytes> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }

    /// Takes an answer in. Its status is what counts: words that do not come within a second are
    /// no reason to wait for them.
    pub(super) async fn read(response: Response<Incoming>) -> Self {
        let (status, mut headers) = (response.status(), response.headers().clone());
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_ENCODING);
        let read = tokio::time::timeout(BODY_PATIENCE, plain_prefix(response, Self::MAX_BODY)).await;
        let (mut headers, body) = read.map_or((headers, Bytes::new()), |(head, body)| (head.headers, body));
        wire::strip_hop_by_hop(&mut headers);
        Self { status, headers, body }
    }
}

/// For the body of an answer whose status is what counts.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

impl fmt::Debug for RegistryAnswer {
    /// Without headers and body: they may hold a session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryAnswer({}, {} bytes)", self.status, self.body.len())
    }
}

/// The credentials one blob may be read with: a handle on a list shared with the reading.
#[derive(Clone)]
pub struct Credentials {
    entries: watch::Sender<Vec<Entry>>,
}

struct Entry {
    credential: ReadCredential,
    key: Key,
    verdict: Option<Verdict>,
}

impl Credentials {
    /// Credentials kept per (upstream, repository) that were not refused; more are turned away.
    pub const MAX_LIVE_PER_REPOSITORY: usize = 8;
    /// Credentials kept in all, the refused ones too; more are turned away.
    pub const MAX: usize = 256;

    /// An empty list.
    pub fn new() -> Self {
        Self { entries: watch::Sender::new(Vec::new()) }
    }

    /// Adds a credential, unless it is there or the list is full. One whose place failed waits for the next
    /// verdict: its client asks again.
    pub fn offer(&self, credential: ReadCredential) -> Offer {
        let key = credential.key();
        let mut offer = Offer::Full;
        self.entries.send_if_modified(|entries| {
            offer = room_for(entries, &key);
            match offer {
                Offer::Added => entries.push(Entry { credential, key, verdict: None }),
                Offer::Known => {
                    let known = entries.iter_mut().find(|entry| entry.key == key);
                    known
                        .expect("it is known")
                        .verdict
                        .take_if(|verdict| matches!(verdict, Verdict::Failed(_)));
                }
                Offer::Full => {}
            }
            offer == Offer::Added
        });
        offer
    }

    /// The registry's verdict on this credential, if there is one already.
    pub fn said(&self, credential: &ReadCredential) -> Option<Verdict> {
        let key = credential.key();
        self.entries.borrow().iter().find(|entry| entry.key == key)?.verdict.clone()
    }

    /// Waits for the registry's verdict on this credential. A credential that another spares the
    /// registry from judging waits until the list is dropped by everyone: give up with the reading.
    ///
    /// `None` if it is not in the list.
    pub async fn verdict(&self, credential: &ReadCredential) -> Option<Verdict> {
        let key = credential.key();
        let mut entries = self.entries.subscribe();
        let find = |entries: &[Entry]| entries.iter().position(|entry| entry.key == key);
        let index = find(&entries.borrow())?;
        let judged = entries.wait_for(|entries| entries[index].verdict.is_some()).await.ok()?;
        judged[index].verdict.clone()
    }

    /// The credentials from the `known`th on that were not refused, and how many there are in all.
    pub(super) fn live_from(&self, known: usize) -> (Vec<ReadCredential>, usize) {
        let entries = self.entries.borrow();
        let live = entries.iter().skip(known).filter(|entry| !entry.is_refused());
        (live.map(|entry| entry.credential.clone()).collect(), entries.len())
    }

    /// Returns once there are more than `known` credentials.
    pub(super) async fn more_than(&self, known: usize) {
        let mut entries = self.entries.subscribe();
        entries.wait_for(|entries| entries.len() > known).await.expect("the sender lives in self");
    }

    /// The registries and repositories of the list, each once, in order.
    pub(super) fn repositories(&self) -> Vec<(RegistryHost, RepositoryName)> {
        let mut seen = HashSet::new();
        let entries = self.entries.borrow();
        let pairs = entries.iter().map(|entry| (entry.key.upstream.clone(), entry.key.repository.clone()));
        pairs.filter(|pair| seen.insert(pair.clone())).collect()
    }

    pub(super) fn judge(&self, credential: &ReadCredential, verdict: &Verdict) {
        let key = credential.key();
        self.entries.send_if_modified(|entries| {
            let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) else { return false };
            let is_news = !matches!((&entry.verdict, verdict), (Some(Verdict::Accepted), Verdict::Accepted));
            if is_news {
                entry.verdict = Some(verdict.clone());
            }
            is_news
        });
    }
}

fn room_for(entries: &[Entry], key: &Key) -> Offer {
    if entries.iter().any(|entry| entry.key == *key) {
        return Offer::Known;
    }
    let same_repository =
        |entry: &&Entry| entry.key.upstream == key.upstream && entry.key.repository == key.repository;
    let live = entries.iter().filter(same_repository).filter(|entry| !entry.is_refused()).count();
    let is_full = live >= Credentials::MAX_LIVE_PER_REPOSITORY || entries.len() >= Credentials::MAX;
    if is_full { Offer::Full } else { Offer::Added }
}

impl Entry {
    fn is_refused(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Refused(_)))
    }
}

impl Default for Credentials {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.entries.borrow().len())
    }
}

/// What became of an offered credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is in the list.
    Added,
    /// It was there before; a refused one stays refused.
    Known,
    /// The list is full; its owner asks the registry by a probe.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(repository: &str, header: &str) -> ReadCredential {
        ReadCredential {
            upstream: "reg.test".parse().unwrap(),
            repository: repository.parse().unwrap(),
            authorization: Authorization::new(header.to_owned()),
        }
    }

    fn refusal() -> Verdict {
        let answer =
            RegistryAnswer { status: StatusCode::FORBIDDEN, headers: HeaderMap::new(), body: Bytes::new() };
        Verdict::Refused(Arc::new(answer))
    }

    #[test]
    fn a_repository_keeps_eight_live_credentials_and_refused_ones_make_room() {
        let list = Credentials::new();
        for index in 0..8 {
            assert_eq!(list.offer(credential("app", &format!("Bearer {index}"))), Offer::Added);
        }
        assert_eq!(list.offer(credential("app", "Bearer 0")), Offer::Known);
        assert_eq!(list.offer(credential("app", "Bearer 8")), Offer::Full);
        assert_eq!(list.offer(credential("other", "Bearer 8")), Offer::Added);
        list.judge(&credential("app", "Bearer 0"), &refusal());
        assert_eq!(list.offer(credential("app", "Bearer 8")), Offer::Added);
        assert_eq!(list.offer(credential("app", "Bearer 0")), Offer::Known);
    }

    #[test]
    fn the_list_never_grows_without_end() {
        let list = Credentials::new();
        for index in 0..Credentials::MAX {
            assert_eq!(list.offer(credential(&format!("app{index}"), "")), Offer::Added);
        }
        assert_eq!(list.offer(credential("one-more", "")), Offer::Full);
    }

    #[test]
    fn who_failed_later_is_heard_again_where_its_client_asks_again() {
        let list = Credentials::new();
        let (liar, other) = (credential("app", "x"), credential("other", "x"));
        list.offer(liar.clone());
        list.offer(other);
        list.judge(&liar, &Verdict::Accepted);
        let cause = EndpointFailure::WrongBytes;
        list.judge(&liar, &Verdict::Failed(Arc::new(PlaceFailure { endpoint: "e".into(), cause })));
        assert_eq!(list.offer(liar.clone()), Offer::Known);
        assert!(list.said(&liar).is_none(), "it waits for the next verdict");
    }

    #[tokio::test]
    async fn an_asker_learns_the_verdict_on_its_own_credential() {
        let list = Credentials::new();
        let (alice, bob) = (credential("app", "Bearer alice"), credential("app", "Bearer bob"));
        list.offer(alice.clone());
        list.offer(bob.clone());
        let (list, asker) = (list.clone(), list);
        let waiting = tokio::spawn(async move { asker.verdict(&bob).await });
        list.judge(&alice, &refusal());
        list.judge(&credential("app", "Bearer bob"), &Verdict::Accepted);
        assert!(matches!(waiting.await.unwrap(), Some(Verdict::Accepted)));
        assert!(matches!(list.verdict(&alice).await, Some(Verdict::Refused(_))));
        assert!(list.verdict(&credential("app", "Bearer eve")).await.is_none());
    }

    #[test]
    fn nothing_of_a_credential_prints() {
        let list = Credentials::new();
        list.offer(credential("app", "Basic c2VjcmV0"));
        let shown = format!("{list:?} {:?} {:?}", credential("app", "Basic c2VjcmV0"), refusal());
        assert!(!shown.contains("c2Vj"), "{shown}");
    }
}
