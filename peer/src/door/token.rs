//! Tokens for clients of the doors `mirror` and `prefix`: asked here, had from the registry's own
//! token service through a seed, and good at the registry as they are.
//!
//! The realm is this door's `/flotilla/token/REGISTRY`. Which service that means, the seed knows
//! from the registry itself: nothing a client says is dialled. Without a registry in the path,
//! as the answer to `/v2/` of several registries has it, the scope's repository names it.
//!
//! A registry that issues no tokens, behind a realm of ours, wants its Basic credential each
//! time; then the token *is* the credential, and is turned back into it at the door.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_proto::RegistryHost;
use http::header::{self, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::route::{FrontDoor, NoRoute, Target};

/// Whether a path asks for a token of this door's.
pub(super) fn is_token_path(path: &str) -> bool {
    path == PATH || path.strip_prefix(PATH).is_some_and(|rest| rest.starts_with('/'))
}

/// Where a client of `door_host` gets tokens for this registry; for several, where it is left out.
pub(super) fn realm(door_host: &str, upstream: Option<&RegistryHost>) -> String {
    match upstream {
        Some(upstream) => format!("http://{door_host}{PATH}/{upstream}"),
        None => format!("http://{door_host}{PATH}"),
    }
}

/// A scope as a prefix's client knows it (distribution's `docs/spec/auth/scope`).
pub(super) fn prefixed(scope: &str, upstream: &RegistryHost) -> String {
    let each = scope.split(' ').map(|one| match one.strip_prefix(REPOSITORY) {
        Some(name) => format!("{REPOSITORY}{upstream}/{name}"),
        None => one.to_owned(),
    });
    each.collect::<Vec<_>>().join(" ")
}

/// The registry that a token is asked of, and the query as that registry knows it.
///
/// # Errors
///
/// If no registry is named, or none that is configured.
pub(super) fn route(
    path: &PathAndQuery,
    configured: &[RegistryHost],
    default: Option<&RegistryHost>,
) -> Result<Target, NoRoute> {
    let named = path.path().strip_prefix(PATH).unwrap_or_default().trim_matches('/');
    let mut upstream = (!named.is_empty())
        .then(|| {
            super::route::lookup(named, configured).ok_or_else(|| super::route::unknown(named, configured))
        })
        .transpose()?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(path.query().unwrap_or_default().as_bytes()) {
        // The seed says by which name its token service knows the registry.
        if name == "service" {
            continue;
        }
        if name != "scope" {
            query.append_pair(&name, &value);
            continue;
        }
        for scope in value.split(' ').filter(|scope| !scope.is_empty()) {
            let (registry, scope) = unprefixed(scope, configured, upstream.as_ref());
            upstream = upstream.or(registry);
            query.append_pair("scope", &scope);
        }
    }
    let only = || default.or(if let [only] = configured { Some(only) } else { None }).cloned();
    let upstream = upstream.or_else(only).ok_or_else(|| NoRoute {
        status: StatusCode::BAD_REQUEST,
        code: "UNSUPPORTED",
        message: "a token of which registry? Neither realm nor scope names one; set door.default_upstream"
            .to_owned(),
    })?;
    let path = format!("{PATH}?{}", query.finish()).parse().map_err(|_| NoRoute {
        status: StatusCode::URI_TOO_LONG,
        code: "UNSUPPORTED",
        message: "a query of that length is no wish for a token".to_owned(),
    })?;
    Ok(Target { door: FrontDoor::Mirror, upstream, path })
}

/// A scope without the registry in front of its repository, and that registry. Once one is named, another's name
/// is a part of the repository: projects that stand for a registry are called like it.
fn unprefixed(
    scope: &str,
    configured: &[RegistryHost],
    named: Option<&RegistryHost>,
) -> (Option<RegistryHost>, String) {
    let parts = scope.strip_prefix(REPOSITORY).and_then(|name| name.split_once('/'));
    let in_front = parts.and_then(|(first, rest)| Some((super::route::lookup(first, configured)?, rest)));
    match in_front.filter(|(upstream, _)| named.is_none_or(|named| named == upstream)) {
        Some((upstream, rest)) => (Some(upstream), format!("{REPOSITORY}{rest}")),
        None => (None, scope.to_owned()),
    }
}

/// The answer of a token service to a client of a registry that has none.
pub(super) fn own(authorization: Option<&HeaderValue>) -> String {
    let credential = authorization.map_or(&b""[..], HeaderValue::as_bytes);
    let token = format!("{OWN}{}", URL_SAFE_NO_PAD.encode(credential));
    json!({ "token": token, "access_token": token, "expires_in": OWN_LIFE_SECONDS }).to_string()
}

/// Turns a token of ours back into the credential that it is.
pub(super) fn unwrap_own(headers: &mut HeaderMap) {
    let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let Some((scheme, token)) = value.split_once(' ') else { return };
    let Some(credential) = token.trim().strip_prefix(OWN).filter(|_| scheme.eq_ignore_ascii_case("bearer"))
    else {
        return;
    };
    let credential = URL_SAFE_NO_PAD.decode(credential).ok().and_then(|it| HeaderValue::try_from(it).ok());
    match credential.filter(|credential| !credential.is_empty()) {
        Some(mut credential) => {
            credential.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, credential);
        }
        None => drop(headers.remove(header::AUTHORIZATION)),
    }
}

const PATH: &str = "/flotilla/token";
const REPOSITORY: &str = "repository:";
/// No token service's tokens begin so.
const OWN: &str = "flotilla-own.";
const OWN_LIFE_SECONDS: u64 = 300;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(names: &[&str]) -> Vec<RegistryHost> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn routed(path: &str, configured: &[&str]) -> Result<(String, String), NoRoute> {
        let target = route(&path.parse().unwrap(), &hosts(configured), None)?;
        Ok((target.upstream.to_string(), target.path.query().unwrap_or_default().to_owned()))
    }

    #[test]
    fn a_token_is_asked_of_the_registry_in_the_realm() {
        let path = "/flotilla/token/a.test?account=robot%24x&scope=repository%3Aapp%3Apull&service=door";
        let (upstream, query) = routed(path, &["a.test", "b.test"]).unwrap();
        assert_eq!(
            (&upstream[..], &query[..]),
            ("a.test", "account=robot%24x&scope=repository%3Aapp%3Apull")
        );
    }

    #[test]
    fn a_prefix_in_the_scope_names_the_registry_and_is_taken_off() {
        let path = "/flotilla/token?scope=repository:b.test/app/web:pull+repository:b.test/base:pull";
        let (upstream, query) = routed(path, &["a.test", "b.test"]).unwrap();
        assert_eq!(upstream, "b.test");
        assert_eq!(query, "scope=repository%3Aapp%2Fweb%3Apull&scope=repository%3Abase%3Apull");
    }

    #[test]
    fn what_names_no_configured_registry_is_refused() {
        assert_eq!(routed("/flotilla/token/evil.test", &["a.test"]).unwrap_err().code, "NAME_UNKNOWN");
        assert!(routed("/flotilla/token?scope=repository:app:pull", &["a.test", "b.test"]).is_err());
        assert_eq!(routed("/flotilla/token", &["a.test"]).unwrap().0, "a.test");
    }

    #[test]
    fn only_this_doors_own_paths_ask_for_tokens() {
        assert!(is_token_path("/flotilla/token") && is_token_path("/flotilla/token/a.test"));
        assert!(!is_token_path("/flotilla/tokens") && !is_token_path("/v2/flotilla/token"));
    }

    #[test]
    fn a_token_of_ours_is_the_credential_again_at_the_door() {
        for credential in [Some("Basic dTpw"), None] {
            let value = credential.map(|text| text.parse::<HeaderValue>().unwrap());
            let answer: serde_json::Value = serde_json::from_str(&own(value.as_ref())).unwrap();
            let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
            let mut headers: HeaderMap =
                [(header::AUTHORIZATION, bearer.parse().unwrap())].into_iter().collect();
            unwrap_own(&mut headers);
            assert_eq!(headers.get(header::AUTHORIZATION), value.as_ref());
        }
        let mut headers: HeaderMap =
            [(header::AUTHORIZATION, "Bearer e.y.J".parse().unwrap())].into_iter().collect();
        unwrap_own(&mut headers);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer e.y.J");
    }

    proptest! {
        #[test]
        fn no_query_or_token_makes_the_door_fail(query in "[ -\"$-~]{0,60}", token in "[ -~]{0,40}") {
            if let Ok(path) = format!("/flotilla/token?{query}").parse() {
                let _ = route(&path, &hosts(&["a.test"]), None);
            }
            let mut headers = HeaderMap::new();
            if let Ok(value) = format!("Bearer {OWN}{token}").parse() {
                headers.insert(header::AUTHORIZATION, value);
            }
            unwrap_own(&mut headers);
        }

        #[test]
        fn a_scope_comes_back_from_behind_a_prefix(name in "[a-z]{1,8}(/[a-z]{1,8}){0,2}") {
            let (upstream, scope) = (hosts(&["a.test:5000"]), format!("repository:{name}:pull"));
            let there = prefixed(&scope, &upstream[0]);
            prop_assert_eq!(unprefixed(&there, &upstream, None), (Some(upstream[0].clone()), scope));
        }
    }
}
