//! Registry tokens: traded for a credential, kept while they live.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::{CredentialHash, RepositoryName};
use http::{HeaderValue, Uri};
use serde::Deserialize;
use tokio::time::Instant;

use crate::challenge::BearerChallenge;

/// Live tokens by endpoint, repository and credential: at most [`MAX_TOKENS`]; at the limit those
/// that die first make room. The lock is held for a look-up or a store.
#[derive(Default)]
pub(super) struct TokenCache(Mutex<HashMap<TokenKey, Token>>);

/// What a token was issued for. Replicas of one registry may sign with different keys, hence the endpoint.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) endpoint: String,
    pub(super) repository: RepositoryName,
    pub(super) credential: CredentialHash,
}

/// A token as the header that carries it.
#[derive(Debug, Clone)]
pub(super) struct Token {
    header: HeaderValue,
    expires_at: Instant,
}

impl TokenCache {
    pub(super) fn find(&self, key: &TokenKey) -> Option<HeaderValue> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get(key).filter(|token| Instant::now() < token.expires_at)?;
        Some(token.header.clone())
    }

    pub(super) fn forget(&self, key: &TokenKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub(super) fn keep(&self, key: TokenKey, token: Token) {
        let now = Instant::now();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, token| now < token.expires_at);
        }
        if tokens.len() >= MAX_TOKENS {
            let first_to_die = tokens.iter().min_by_key(|(_, token)| token.expires_at);
            let first_to_die = first_to_die.map(|(key, _)| key.clone()).expect("the cache is full");
            tokens.remove(&first_to_die);
        }
        tokens.insert(key, token);
    }
}

impl Token {
    /// From a token service's answer, counted from its receipt: clocks differ.
    pub(super) fn parse(body: &[u8], received_at: Instant) -> Option<Self> {
        let answer: TokenAnswer = serde_json::from_slice(body).ok()?;
        let named = [answer.token, answer.access_token];
        let text = named.into_iter().flatten().find(|text| !text.is_empty())?;
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        header.set_sensitive(true);
        let life =
            Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE_SECONDS).min(MAX_LIFE_SECONDS));
        Some(Self { header, expires_at: received_at + life.saturating_sub(LEEWAY) })
    }

    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }
}

/// Registries say `token`, OAuth2 says `access_token`; some send both, one of them empty.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Where to ask for a token that lets read `repository`.
pub(super) fn token_uri(challenge: &BearerChallenge, repository: &RepositoryName) -> Option<Uri> {
    let mut query = String::new();
    append(&mut query, "scope", &format!("repository:{}:pull", repository.as_str()));
    uri(challenge, &query)
}

/// The token service that a challenge names, asked with its own name of the registry and `wishes`,
/// which are a query's.
pub(super) fn uri(challenge: &BearerChallenge, wishes: &str) -> Option<Uri> {
    let mut query = challenge.realm.query().map(ToOwned::to_owned).unwrap_or_default();
    if let Some(service) = &challenge.service {
        append(&mut query, "service", service);
    }
    if !wishes.is_empty() {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(wishes);
    }
    let mut parts = challenge.realm.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{query}", challenge.realm.path()).parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn append(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    write!(query, "{name}=").expect("a string takes everything");
    for byte in value.bytes() {
        // RFC 3986 §3.4 lets a query hold `:`, `/` and `@` as they are; registries' logs stay readable.
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'@' => {
                query.push(char::from(byte));
            }
            _ => write!(query, "%{byte:02X}").expect("a string takes everything"),
        }
    }
}

/// Tokens kept at once.
const MAX_TOKENS: usize = 1024;
/// What the specification gives a token that states no life.
const DEFAULT_LIFE_SECONDS: u64 = 60;
/// A token that claims to live longer is asked for again after a day.
const MAX_LIFE_SECONDS: u64 = 24 * 3600;
/// A token is not used in its last seconds: it must still be good when the request arrives.
const LEEWAY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(index: usize) -> TokenKey {
        TokenKey {
            endpoint: "https://reg.test".into(),
            repository: format!("app{index}").parse().unwrap(),
            credential: flotilla_proto::Authorization::ANONYMOUS.hash(),
        }
    }

    fn token(expires_in: u64) -> Token {
        let body = format!(r#"{{"token":"t","expires_in":{expires_in}}}"#);
        Token::parse(body.as_bytes(), Instant::now()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_lives_from_its_receipt_less_a_leeway() {
        let tokens = TokenCache::default();
        tokens.keep(key(0), token(300));
        tokens.keep(key(1), Token::parse(br#"{"access_token":"t","token":""}"#, Instant::now()).unwrap());
        tokio::time::advance(Duration::from_secs(49)).await;
        assert_eq!(tokens.find(&key(1)).unwrap(), "Bearer t");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(tokens.find(&key(1)).is_none());
        tokio::time::advance(Duration::from_secs(238)).await;
        assert!(tokens.find(&key(0)).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(tokens.find(&key(0)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_drops_the_token_that_dies_first() {
        let tokens = TokenCache::default();
        for index in 0..MAX_TOKENS {
            tokens.keep(key(index), token(if index == 7 { 100 } else { 300 }));
        }
        tokens.keep(key(MAX_TOKENS), token(300));
        assert!(tokens.find(&key(7)).is_none());
        assert!(tokens.find(&key(8)).is_some() && tokens.find(&key(MAX_TOKENS)).is_some());
    }

    #[test]
    fn an_answer_without_a_token_is_none() {
        for body in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, "<html>"] {
            assert!(Token::parse(body.as_bytes(), Instant::now()).is_none(), "{body}");
        }
    }

    #[test]
    fn a_token_never_prints() {
        assert!(!format!("{:?}", token(60)).contains("Bearer"));
    }

    #[test]
    fn a_token_is_asked_for_with_service_and_scope() {
        let challenge = BearerChallenge {
            realm: "https://auth.test/token?x=1".parse().unwrap(),
            service: Some("my registry&co".into()),
        };
        let uri = token_uri(&challenge, &"a/b".parse().unwrap()).unwrap();
        assert_eq!(uri, "https://auth.test/token?x=1&service=my%20registry%26co&scope=repository:a/b:pull");
    }

    proptest! {
        #[test]
        fn no_answer_of_a_token_service_makes_the_reading_of_it_fail(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            token in "\\PC{0,20}",
            life: i64,
        ) {
            Token::parse(&bytes, Instant::now());
            let answer = serde_json::json!({ "token": token, "expires_in": life }).to_string();
            if let Some(token) = Token::parse(answer.as_bytes(), Instant::now()) {
                prop_assert!(token.header().is_sensitive());
            }
        }
    }
}
