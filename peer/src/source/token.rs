//! Registry tokens: traded for a credential, kept while they live.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_daemon::registry_auth::TokenAnswer;
use flotilla_proto::{CredentialHash, RepositoryName};
use http::HeaderValue;
use tokio::time::Instant;

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
        let answer = TokenAnswer::parse(body)?;
        let expires_at = received_at + answer.life().saturating_sub(LEEWAY);
        Some(Self { header: answer.header().clone(), expires_at })
    }

    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }
}

/// Tokens kept at once.
const MAX_TOKENS: usize = 1024;
/// A token is not used in its last seconds: it must still be good when the request arrives.
const LEEWAY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
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
    fn a_token_never_prints() {
        assert!(!format!("{:?}", token(60)).contains("Bearer"));
    }
}
