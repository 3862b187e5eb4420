//! Answering `401`: with a token of the service that the registry names, or as Basic. How registries
//! ask and how token services answer is read by [`flotilla_daemon::registry_auth`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flotilla_daemon::registry_auth::{BearerChallenge, Challenge, TokenAnswer};
use flotilla_peer::source::plain_prefix;
use hyper::Request;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue};

use super::error::{Cause, message};
use super::{ClientPlan, MAX_ERROR_LEN};
use crate::http::empty;

/// Whom the registry knows; `Debug` shows no secret.
#[derive(Clone)]
pub(crate) struct Credentials {
    basic: HeaderValue,
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

/// The `Authorization` that satisfies what these headers ask for; `None` where they ask for nothing
/// that a client here can give.
pub(super) async fn answer(headers: &HeaderMap, plan: &ClientPlan) -> Result<Option<HeaderValue>, Cause> {
    let basic = plan.credentials.as_ref().map(|credentials| credentials.basic.clone());
    if let Some(challenge) = BearerChallenge::find(headers) {
        return token(&challenge, plan, basic).await.map(Some);
    }
    if Challenge::all(headers).any(|challenge| challenge.is_basic()) {
        return basic.ok_or(Cause::NoCredentials).map(Some);
    }
    Ok(None)
}

/// Trades the account for a token; anonymously where there is none.
async fn token(
    challenge: &BearerChallenge,
    plan: &ClientPlan,
    basic: Option<HeaderValue>,
) -> Result<HeaderValue, Cause> {
    // A prefix's scope has the registry in front of the repository: what the challenge says counts.
    let uri = match &challenge.scope {
        Some(scope) => challenge.scope_uri(scope),
        None => challenge.pull_uri(&plan.image.repository),
    };
    let mut request = Request::new(empty());
    *request.uri_mut() = uri.ok_or(Cause::NoRealm)?;
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(basic) = basic {
        request.headers_mut().insert(AUTHORIZATION, basic);
    }
    let (head, body) = plain_prefix(plan.http.send(request).await?, MAX_TOKEN_LEN).await;
    if !head.status.is_success() {
        let text = String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_LEN)]);
        return Err(Cause::TokenRefused { status: head.status, message: message(&text) });
    }
    let answer = TokenAnswer::parse(&body).ok_or(Cause::NoToken)?;
    Ok(answer.header().clone())
}

/// Tokens with many scopes reach some KiB.
const MAX_TOKEN_LEN: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_in_no_debug_output() {
        let credentials = Credentials::new("robot", "secret");
        assert_eq!(credentials.basic.to_str().unwrap(), "Basic cm9ib3Q6c2VjcmV0");
        assert_eq!(format!("{credentials:?} {:?}", credentials.basic), "Credentials(..) Sensitive");
    }
}
