//! What a registry says of itself, said again as a mirror or a prefix must: tokens, redirects
//! and further pages are to be had through this door, too.
//!
//! A client takes the realm of a challenge literally. Left as it is, tokens would be fetched
//! around the door, by nodes that may have no way to the registry; and the repository in a
//! prefix's scope would be one that the registry does not know.

use flotilla_daemon::registry_auth::Challenge;
use flotilla_proto::RegistryHost;
use http::header::{self, HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

use super::route::{FrontDoor, Target};
use super::token;

/// Rewrites an answer's headers for a client that reached `door_host` through `target`'s door.
pub(super) fn headers(headers: &mut HeaderMap, target: &Target, door_host: &str) {
    challenges(headers, target, door_host);
    // They are the registry's own host's, which the client does not speak to.
    headers.remove(header::SET_COOKIE);
    headers.remove(header::STRICT_TRANSPORT_SECURITY);
    change(headers, &header::LOCATION, |location| local(location, target));
    change(headers, &header::LINK, |link| {
        let (leading, rest) = link.split_once('<')?;
        let (page, rest) = rest.split_once('>')?;
        Some(format!("{leading}<{}>{rest}", local(page, target)?))
    });
}

fn challenges(headers: &mut HeaderMap, target: &Target, door_host: &str) {
    let mut challenges: Vec<Challenge> = Challenge::all(headers).collect();
    if !challenges.iter().any(Challenge::is_bearer) {
        return;
    }
    headers.remove(header::WWW_AUTHENTICATE);
    for challenge in &mut challenges {
        if challenge.is_bearer() {
            challenge.map("realm", |_| token::realm(door_host, Some(&target.upstream)));
            if target.door == FrontDoor::Prefix {
                challenge.map("scope", |scope| token::prefixed(scope, &target.upstream));
            }
        }
        // What was a header's value is one again.
        if let Ok(value) = HeaderValue::try_from(challenge.to_string()) {
            headers.append(header::WWW_AUTHENTICATE, value);
        }
    }
}

/// Changes a header that is there once; leaves it where `to` has nothing better.
fn change(headers: &mut HeaderMap, name: &HeaderName, to: impl FnOnce(&str) -> Option<String>) {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text.and_then(to).and_then(|value| HeaderValue::try_from(value).ok()) {
        headers.insert(name.clone(), value);
    }
}

/// A place of the registry as a path of this door; `None` if it lies elsewhere.
fn local(place: &str, target: &Target) -> Option<String> {
    let uri: Uri = place.parse().ok()?;
    if let Some(authority) = uri.authority() {
        let named: RegistryHost = authority.as_str().parse().ok()?;
        if named != target.upstream {
            return None;
        }
    }
    let path = uri.path_and_query()?;
    let rest = path.path().strip_prefix("/v2/")?;
    let query = path.query().map(|query| format!("?{query}")).unwrap_or_default();
    let local = match target.door {
        FrontDoor::Proxy | FrontDoor::Sni => return None,
        FrontDoor::Prefix => format!("/v2/{}/{rest}{query}", target.upstream),
        FrontDoor::Mirror => {
            let joined = if query.is_empty() { '?' } else { '&' };
            format!("/v2/{rest}{query}{joined}ns={}", target.upstream)
        }
    };
    local.parse::<PathAndQuery>().ok()?;
    Some(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(door: FrontDoor) -> Target {
        Target {
            door,
            upstream: "reg.test:5000".parse().unwrap(),
            path: PathAndQuery::from_static("/v2/app/manifests/v1"),
        }
    }

    fn rewritten(door: FrontDoor, name: HeaderName, value: &str) -> String {
        let mut map: HeaderMap = [(name.clone(), value.parse().unwrap())].into_iter().collect();
        headers(&mut map, &target(door), "127.0.0.1:4001");
        map[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_challenge_leads_through_the_door_and_names_what_the_client_calls_the_repository() {
        let harbor = r#"Bearer realm="https://reg.test:5000/service/token",service="harbor-registry",scope="repository:app:pull""#;
        assert_eq!(
            rewritten(FrontDoor::Mirror, header::WWW_AUTHENTICATE, harbor),
            r#"Bearer realm="http://127.0.0.1:4001/flotilla/token/reg.test:5000",service="harbor-registry",scope="repository:app:pull""#
        );
        assert_eq!(
            rewritten(FrontDoor::Prefix, header::WWW_AUTHENTICATE, harbor),
            r#"Bearer realm="http://127.0.0.1:4001/flotilla/token/reg.test:5000",service="harbor-registry",scope="repository:reg.test:5000/app:pull""#
        );
        for other in [r#"Basic realm="harbor""#, "", "Negotiate YWJj"] {
            assert_eq!(rewritten(FrontDoor::Mirror, header::WWW_AUTHENTICATE, other), other);
        }
    }

    #[test]
    fn a_redirect_within_the_registry_stays_within_the_door() {
        for (place, prefix, mirror) in [
            (
                "/v2/p/library/a/manifests/v1",
                "/v2/reg.test:5000/p/library/a/manifests/v1",
                "/v2/p/library/a/manifests/v1?ns=reg.test:5000",
            ),
            (
                "https://reg.test:5000/v2/a/tags/list?n=1",
                "/v2/reg.test:5000/a/tags/list?n=1",
                "/v2/a/tags/list?n=1&ns=reg.test:5000",
            ),
            ("https://s3.test/v2/a", "https://s3.test/v2/a", "https://s3.test/v2/a"),
            ("/login", "/login", "/login"),
        ] {
            assert_eq!(rewritten(FrontDoor::Prefix, header::LOCATION, place), prefix);
            assert_eq!(rewritten(FrontDoor::Mirror, header::LOCATION, place), mirror);
        }
        let link = r#"</v2/a/tags/list?last=v1&n=1>; rel="next""#;
        assert_eq!(
            rewritten(FrontDoor::Prefix, header::LINK, link),
            r#"</v2/reg.test:5000/a/tags/list?last=v1&n=1>; rel="next""#
        );
    }

    #[test]
    fn a_session_with_the_registrys_own_host_is_not_passed_on() {
        let mut map: HeaderMap =
            [(header::SET_COOKIE, "sid=1".parse().unwrap()), (header::ETAG, "\"e\"".parse().unwrap())]
                .into_iter()
                .collect();
        headers(&mut map, &target(FrontDoor::Mirror), "127.0.0.1:4001");
        assert!(!map.contains_key(header::SET_COOKIE) && map.contains_key(header::ETAG));
    }
}
