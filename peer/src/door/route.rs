//! Where a request is for: which door it came through, which registry it means, and the
//! path that registry knows it by.

use flotilla_proto::RegistryHost;
use http::StatusCode;
use http::uri::PathAndQuery;

/// How a client reached this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrontDoor {
    /// As its HTTPS proxy; the client believes it speaks to the registry.
    Proxy,
    /// As a mirror of a registry.
    Mirror,
    /// Under a name with the registry in front of the repository.
    Prefix,
    /// As the registry itself: the client's resolver says so.
    Sni,
}

impl FrontDoor {
    /// Whether its client believes to speak to the registry, so that everything of a registry is
    /// to be had, and nothing is said in other words.
    pub(super) fn plays_registry(self) -> bool {
        match self {
            Self::Proxy | Self::Sni => true,
            Self::Mirror | Self::Prefix => false,
        }
    }
}

/// A request for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) door: FrontDoor,
    pub(super) upstream: RegistryHost,
    /// As the registry knows it.
    pub(super) path: PathAndQuery,
}

/// Why a request is for no registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoRoute {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// The registry that a mirror's or prefix's request is for. `ns` and the first path
/// component are looked up among the configured registries and never dialled.
pub(super) fn route(
    path: &PathAndQuery,
    configured: &[RegistryHost],
    default: Option<&RegistryHost>,
) -> Result<Target, NoRoute> {
    if !path.path().starts_with("/v2/") && path.path() != "/v2" {
        return Err(not_found(format!("{} is no path of a registry; they begin with /v2/", path.path())));
    }
    let (namespace, rest) = take_namespace(path);
    if let Some(namespace) = namespace {
        let upstream = lookup(&namespace, configured).ok_or_else(|| unknown(&namespace, configured))?;
        return Ok(Target { door: FrontDoor::Mirror, upstream, path: rest });
    }
    if let Some((upstream, path)) = prefixed(&rest, configured)? {
        return Ok(Target { door: FrontDoor::Prefix, upstream, path });
    }
    match (default, configured) {
        (Some(upstream), _) | (None, [upstream]) => {
            Ok(Target { door: FrontDoor::Mirror, upstream: upstream.clone(), path: rest })
        }
        (None, []) => Err(not_found("no registry is configured in this region".to_owned())),
        (None, [_, ..]) => Err(not_found(format!(
            "which registry? The request names none of {}; set door.default_upstream, or put it in front of the repository",
            list(configured)
        ))),
    }
}

/// Takes `ns=` out of the query: only this peer is told it.
fn take_namespace(path: &PathAndQuery) -> (Option<String>, PathAndQuery) {
    let Some(query) = path.query() else { return (None, path.clone()) };
    let (mut namespace, mut rest) = (None, Vec::new());
    for pair in query.split('&') {
        match pair.strip_prefix("ns=") {
            Some(value) => namespace = Some(value.replace("%3A", ":").replace("%3a", ":")),
            None => rest.push(pair),
        }
    }
    let rest =
        if rest.is_empty() { path.path().to_owned() } else { format!("{}?{}", path.path(), rest.join("&")) };
    (namespace, rest.parse().expect("a part of a valid path and query"))
}

/// The registry in front of the repository, if the first component can only be one.
fn prefixed(
    path: &PathAndQuery,
    configured: &[RegistryHost],
) -> Result<Option<(RegistryHost, PathAndQuery)>, NoRoute> {
    let Some((first, rest)) = path.path().strip_prefix("/v2/").and_then(|path| path.split_once('/')) else {
        return Ok(None);
    };
    match lookup(first, configured) {
        Some(upstream) => {
            let query = path.query().map(|query| format!("?{query}")).unwrap_or_default();
            let path = format!("/v2/{rest}{query}").parse().expect("a part of a valid path and query");
            Ok(Some((upstream, path)))
        }
        // As in image names: a first component with a dot or colon is a registry.
        None if first.contains(['.', ':']) => Err(unknown(first, configured)),
        None => Ok(None),
    }
}

/// The configured registry of that name.
pub(super) fn lookup(name: &str, configured: &[RegistryHost]) -> Option<RegistryHost> {
    let name: RegistryHost = name.parse().ok()?;
    configured.iter().find(|host| **host == name).cloned()
}

/// The refusal of a registry that is not configured.
pub(super) fn unknown(name: &str, configured: &[RegistryHost]) -> NoRoute {
    not_found(format!(
        "the registry {name:?} is not configured in this region; configured: {}",
        list(configured)
    ))
}

fn not_found(message: String) -> NoRoute {
    NoRoute { status: StatusCode::NOT_FOUND, code: "NAME_UNKNOWN", message }
}

fn list(configured: &[RegistryHost]) -> String {
    let names: Vec<&str> = configured.iter().map(RegistryHost::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(names: &[&str]) -> Vec<RegistryHost> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn routed(path: &str, configured: &[&str]) -> Result<(FrontDoor, String, String), NoRoute> {
        let target = route(&path.parse().unwrap(), &hosts(configured), None)?;
        Ok((target.door, target.upstream.to_string(), target.path.to_string()))
    }

    fn expect(door: FrontDoor, upstream: &str, path: &str) -> Result<(FrontDoor, String, String), NoRoute> {
        Ok((door, upstream.to_owned(), path.to_owned()))
    }

    #[test]
    fn a_mirror_is_told_the_registry_by_ns_and_keeps_it_to_itself() {
        let both = ["harbor.test", "reg.test:5000"];
        assert_eq!(
            routed("/v2/app/manifests/v1?ns=reg.test:5000&x=1", &both),
            expect(FrontDoor::Mirror, "reg.test:5000", "/v2/app/manifests/v1?x=1")
        );
        assert_eq!(
            routed("/v2/app/manifests/v1?ns=reg.test%3A5000", &both),
            expect(FrontDoor::Mirror, "reg.test:5000", "/v2/app/manifests/v1")
        );
    }

    #[test]
    fn a_prefix_names_the_registry_in_front_of_the_repository() {
        assert_eq!(
            routed("/v2/harbor.test/app/web/blobs/sha256:0", &["harbor.test", "other.test"]),
            expect(FrontDoor::Prefix, "harbor.test", "/v2/app/web/blobs/sha256:0")
        );
        assert_eq!(
            routed("/v2/harbor.test/app/tags/list?n=1&last=a/b", &["harbor.test"]),
            expect(FrontDoor::Prefix, "harbor.test", "/v2/app/tags/list?n=1&last=a/b")
        );
    }

    #[test]
    fn a_query_names_no_registry() {
        assert_eq!(
            routed("/v2/_catalog?last=my.team/app", &["harbor.test"]),
            expect(FrontDoor::Mirror, "harbor.test", "/v2/_catalog?last=my.team/app")
        );
    }

    #[test]
    fn the_only_registry_need_not_be_named() {
        assert_eq!(routed("/v2/", &["harbor.test"]), expect(FrontDoor::Mirror, "harbor.test", "/v2/"));
        assert_eq!(
            routed("/v2/app/manifests/v1", &["harbor.test"]),
            expect(FrontDoor::Mirror, "harbor.test", "/v2/app/manifests/v1")
        );
    }

    #[test]
    fn a_registry_that_is_not_configured_is_never_dialled() {
        for path in
            ["/v2/app/manifests/v1?ns=evil.test", "/v2/evil.test/app/manifests/v1", "/v2/?ns=10.0.0.1"]
        {
            let refused = routed(path, &["harbor.test"]).unwrap_err();
            assert_eq!(refused.code, "NAME_UNKNOWN");
            assert!(refused.message.contains("harbor.test"), "{}", refused.message);
        }
        assert!(routed("/v2/app/manifests/v1", &["a.test", "b.test"]).is_err());
        assert!(routed("/etc/passwd", &["a.test"]).is_err());
    }

    proptest! {
        #[test]
        fn no_path_leads_to_a_registry_that_is_not_configured(
            path in "/(v2/)?[a-z0-9A-Z./:%_-]{0,40}(\\?[a-z0-9=&.:%/]{0,40})?",
            default in proptest::option::of(Just("a.test")),
        ) {
            let default: Option<RegistryHost> = default.map(|name| name.parse().unwrap());
            let configured = hosts(&["a.test", "b.test:5000"]);
            if let Ok(path) = path.parse::<PathAndQuery>()
                && let Ok(target) = route(&path, &configured, default.as_ref())
            {
                prop_assert!(configured.contains(&target.upstream));
                let names_one = |pair: &str| pair.starts_with("ns=");
                prop_assert!(!target.path.query().unwrap_or_default().split('&').any(names_one));
            }
        }
    }
}
