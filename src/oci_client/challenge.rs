//! Answering `401`: Basic, or a token of the service that the registry names (distribution's
//! "Token Authentication Specification").

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Request, Uri};
use serde::Deserialize;

use super::error::{Cause, message};
use super::{ClientPlan, MAX_ERROR_LEN};
use crate::http::{empty, text};

/// Whom the registry knows; `Debug` shows no secret.
#[derive(Clone)]
pub(crate) struct Credentials {
    basic: HeaderValue,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// The token service's URL.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it must allow; the repository's pull where the registry does not say.
        scope: Option<String>,
    },
}

impl Credentials {
    /// A user and a password.
    pub(crate) fn new(user: &str, password: &str) -> Self {
        let encoded = BASE64.encode(format!("{user}:{password}"));
        let mut basic = HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 makes a header");
        basic.set_sensitive(true);
        Self { basic }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Challenge {
    /// The first challenge that a client here can answer.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().find_map(|value| Self::parse(value.to_str().ok()?))
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, parameters) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        let bearer = scheme.eq_ignore_ascii_case("bearer");
        let parameter = |name| parameter(parameters, name);
        let realm = parameter("realm").filter(|_| bearer)?;
        Some(Self::Bearer { realm, service: parameter("service"), scope: parameter("scope") })
    }

    /// The `Authorization` that satisfies it.
    pub(super) async fn answer(&self, plan: &ClientPlan) -> Result<HeaderValue, Cause> {
        let basic = plan.credentials.as_ref().map(|credentials| credentials.basic.clone());
        match self {
            Self::Basic => basic.ok_or(Cause::NoCredentials),
            Self::Bearer { realm, service, scope } => {
                let pull = || format!("repository:{}:pull", plan.image.repository);
                let mut query = format!("scope={}", encode(&scope.clone().unwrap_or_else(pull)));
                if let Some(service) = service {
                    query = format!("service={}&{query}", encode(service));
                }
                let separator = if realm.contains('?') { '&' } else { '?' };
                let uri = format!("{realm}{separator}{query}").parse().map_err(Cause::Uri)?;
                token(plan, uri, basic).await
            }
        }
    }
}

async fn token(plan: &ClientPlan, uri: Uri, basic: Option<HeaderValue>) -> Result<HeaderValue, Cause> {
    #[derive(Deserialize)]
    struct Token {
        #[serde(alias = "access_token")]
        token: String,
    }
    let mut request = Request::new(empty());
    *request.uri_mut() = uri;
    if let Some(basic) = basic {
        request.headers_mut().insert(AUTHORIZATION, basic);
    }
    let response = plan.http.send(request).await?;
    let status = response.status();
    if !status.is_success() {
        let message = message(&text(response.into_body(), MAX_ERROR_LEN).await);
        return Err(Cause::TokenRefused { status, message });
    }
    let body = text(response.into_body(), MAX_TOKEN_LEN).await;
    let Token { token } = serde_json::from_str(&body).map_err(|_| Cause::NoToken)?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Cause::NoToken)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The value of `name="value"` among comma-separated parameters; commas inside quotes do not
/// separate (a scope has them: `repository:app:pull,push`).
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (found, after) = rest.trim_start_matches([',', ' ']).split_once('=')?;
        let (value, remaining) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if found.trim().eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = remaining;
    }
}

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3).
fn encode(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Tokens with many scopes reach some KiB.
const MAX_TOKEN_LEN: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_is_read_whatever_its_order_and_commas() {
        let text =
            r#"Bearer service="reg.test",scope="repository:app:pull,push", realm="https://auth.test/token""#;
        let challenge = Challenge::parse(text).unwrap();
        let expected = Challenge::Bearer {
            realm: "https://auth.test/token".into(),
            service: Some("reg.test".into()),
            scope: Some("repository:app:pull,push".into()),
        };
        assert_eq!(challenge, expected);
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        assert_eq!(Challenge::parse(r#"Basic realm="harbor""#), Some(Challenge::Basic));
        for text in ["", "Bearer", r#"Bearer service="x""#, r#"Bearer realm="open"#, r#"Digest realm="x""#] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    #[test]
    fn credentials_are_in_no_debug_output() {
        let credentials = Credentials::new("robot", "secret");
        assert_eq!(credentials.basic.to_str().unwrap(), "Basic cm9ib3Q6c2VjcmV0");
        assert_eq!(format!("{credentials:?} {:?}", credentials.basic), "Credentials(..) Sensitive");
    }

    #[test]
    fn a_scope_is_encoded_for_a_query() {
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
