//! What a token service answers (distribution spec, "Token Authentication").
//!
//! Only the token matters. Everything else is read as far as it is what the specification says, and
//! passed over where it is not: a service that writes its life as text still gave a token.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use serde_json::{Map, Value};

/// A token, as the header that shows it, and how long it lives.
#[derive(Clone)]
pub struct TokenAnswer {
    header: HeaderValue,
    life: Duration,
}

impl TokenAnswer {
    /// Reads the body of an answer; `None` if no token is in it that a header can carry.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let answer: Map<String, Value> = serde_json::from_slice(body).ok()?;
        // Registries say `token`, OAuth2 says `access_token`; some send both, one of them empty or null.
        let named = ["token", "access_token"].map(|name| answer.get(name).and_then(Value::as_str));
        let token = named.into_iter().flatten().map(str::trim).find(|token| !token.is_empty())?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        Some(Self { header, life: life(answer.get("expires_in")) })
    }

    /// The value of `Authorization` that shows the token. It is marked as sensitive.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// How long the token lives from its receipt: clocks differ, so that `issued_at` says nothing.
    pub fn life(&self) -> Duration {
        self.life
    }
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAnswer").field("life", &self.life).finish_non_exhaustive()
    }
}

/// `expires_in`, in seconds: a number, whole or not, or a text that is one.
fn life(stated: Option<&Value>) -> Duration {
    let seconds = match stated {
        Some(Value::Number(seconds)) => seconds.as_f64(),
        Some(Value::String(seconds)) => seconds.trim().parse().ok(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => None,
    };
    let stated = seconds.filter(|seconds| *seconds > 0.0).map(|seconds| seconds.min(LONGEST.as_secs_f64()));
    stated.map_or(UNSTATED, Duration::from_secs_f64)
}

/// What the specification gives a token that states no life.
const UNSTATED: Duration = Duration::from_secs(60);

/// A token that claims to live longer is believed for a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(answer: &Value) -> Option<(String, u64)> {
        let answer = TokenAnswer::parse(answer.to_string().as_bytes())?;
        Some((answer.header().to_str().unwrap().to_owned(), answer.life().as_secs()))
    }

    #[test]
    fn the_token_of_every_registry_is_found() {
        let issued_at = "2026-11-29T02:09:14.123456789Z";
        for (registry, answer, life) in [
            // Harbor: core/service/token and its robots; `access_token` is always there.
            (
                "Harbor",
                json!({ "token": "t", "access_token": "", "expires_in": 1800, "issued_at": issued_at }),
                1800,
            ),
            ("distribution", json!({ "token": "t", "expires_in": 3600, "issued_at": issued_at }), 3600),
            (
                "distribution, offline",
                json!({ "access_token": "t", "scope": "", "expires_in": 300, "refresh_token": "r" }),
                300,
            ),
            (
                "Docker Hub",
                json!({ "token": "t", "access_token": "t", "expires_in": 300, "issued_at": issued_at }),
                300,
            ),
            ("GHCR", json!({ "token": "t" }), 60),
            ("ECR Public", json!({ "token": "t" }), 60),
            (
                "ECR, behind a helper",
                json!({ "access_token": "t", "refresh_token": null, "expires_in": null }),
                60,
            ),
            ("GitLab", json!({ "token": "t", "expires_in": 900 }), 900),
            ("Quay", json!({ "token": "t", "access_token": null }), 60),
            (
                "zot",
                json!({ "token": "t", "access_token": "t", "expires_in": 60, "issued_at": issued_at }),
                60,
            ),
            (
                "Google",
                json!({ "token": "t", "access_token": "t", "expires_in": 43200, "issued_at": issued_at }),
                43200,
            ),
            ("Azure", json!({ "access_token": "t" }), 60),
        ] {
            assert_eq!(read(&answer), Some(("Bearer t".to_owned(), life)), "{registry}");
        }
    }

    #[test]
    fn what_stands_beside_the_token_may_be_anything() {
        for (beside, life) in [
            (json!({ "expires_in": "300" }), 300),
            (json!({ "expires_in": " 300 " }), 300),
            (json!({ "expires_in": 299.5 }), 299),
            (json!({ "expires_in": 3e2 }), 300),
            (json!({ "expires_in": "5m" }), 60),
            (json!({ "expires_in": "NaN" }), 60),
            (json!({ "expires_in": -1 }), 60),
            (json!({ "expires_in": 0 }), 60),
            (json!({ "expires_in": {} }), 60),
            (json!({ "expires_in": "inf" }), 86_400),
            (json!({ "expires_in": u64::MAX }), 86_400),
            (json!({ "issued_at": "yesterday", "scope": ["a"] }), 60),
            (json!({ "issued_at": 1_796_599_214_u64, "refresh_token": 7 }), 60),
            (json!({ "issued_at": null, "x": { "token": "other" } }), 60),
            (json!({ "access_token": "other" }), 60),
            (json!({ "access_token": 7 }), 60),
        ] {
            let mut answer = beside;
            answer["token"] = "t".into();
            assert_eq!(read(&answer), Some(("Bearer t".to_owned(), life)), "{answer}");
        }
        let twice = TokenAnswer::parse(br#"{"token":"","token":"t"}"#).unwrap();
        assert_eq!(twice.header(), "Bearer t", "the last one counts, as with every client");
    }

    #[test]
    fn an_answer_without_a_token_is_none() {
        for body in [
            "",
            "{}",
            "null",
            "[]",
            "\"t\"",
            r#"{"token":""}"#,
            r#"{"token":null,"access_token":" "}"#,
            r#"{"token":7}"#,
            r#"{"token":"a\nb"}"#,
            r#"{"token":"t""#,
            "<html>",
        ] {
            assert!(TokenAnswer::parse(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn a_token_never_prints() {
        let answer = TokenAnswer::parse(br#"{"token":"c2VjcmV0"}"#).unwrap();
        let shown = format!("{answer:?} {:?}", answer.header());
        assert!(!shown.contains("c2Vj"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_fail(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            token in "\\PC{0,20}",
            life in proptest::prop_oneof![any::<f64>().prop_map(Value::from), ".{0,20}".prop_map(Value::from)],
        ) {
            TokenAnswer::parse(&bytes);
            let answer = json!({ "token": token, "expires_in": life }).to_string();
            if let Some(answer) = TokenAnswer::parse(answer.as_bytes()) {
                prop_assert!(answer.header().is_sensitive() && answer.life() <= LONGEST);
            }
        }
    }
}
