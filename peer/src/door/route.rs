//! Where a request is for: which door it came through, which registry it means, and the
//! path that registry knows it by.

use flotilla_proto::RegistryHost;
use http::StatusCode;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

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

/// The registry that a mirror's or prefix's request is for. What a client names is looked up among the configured
/// registries and never dialled. In this order:
///
/// 1. A configured registry in front of the repository, whatever `ns` says: somebody wrote it down for this client,
///    and `ns` is added by the client itself, as containerd does with `override_path`.
/// 2. The registry of `ns`.
/// 3. The default one, or the only one: what stands in front is a part of its repository, as in `my.team/app`.
///
/// # Errors
///
/// If the path is no registry's, or names a registry that is not configured, or several may be meant.
pub(super) fn route(
    path: &PathAndQuery,
    configured: &[RegistryHost],
    default: Option<&RegistryHost>,
) -> Result<Target, NoRoute> {
    if !path.path().starts_with("/v2/") && path.path() != "/v2" {
        return Err(not_found(format!("{} is no path of a registry; they begin with /v2/", path.path())));
    }
    let (namespace, rest) = take_namespace(path)?;
    let front = path_in_front(&rest);
    if let Some((first, path)) = &front
        && let Some(upstream) = lookup(first, configured)
    {
        return Ok(Target { door: FrontDoor::Prefix, upstream, path: path.clone() });
    }
    if let Some(namespace) = namespace {
        let upstream = lookup(&namespace, configured).ok_or_else(|| unknown(&namespace, configured))?;
        return Ok(Target { door: FrontDoor::Mirror, upstream, path: rest });
    }
    // No repository has a colon: this can only be a registry.
    if let Some((first, _)) = front.filter(|(first, _)| first.contains(':')) {
        return Err(unknown(&first, configured));
    }
    match (default, configured) {
        (Some(upstream), _) | (None, [upstream]) => {
            Ok(Target { door: FrontDoor::Mirror, upstream: upstream.clone(), path: rest })
        }
        (None, []) => Err(not_found("no registry is configured in this region".to_owned())),
        (None, [_, ..]) => Err(not_found(format!(
            "which registry? {} names none of {}; set door.default_upstream, or put it in front of the repository",
            rest.path(),
            list(configured)
        ))),
    }
}

/// Takes `ns=` out of the query: only this peer is told it. The rest stays as it is written.
fn take_namespace(path: &PathAndQuery) -> Result<(Option<String>, PathAndQuery), NoRoute> {
    let Some(query) = path.query() else { return Ok((None, path.clone())) };
    let (mut namespace, mut rest) = (None::<String>, Vec::new());
    for pair in query.split('&') {
        let Some((_, named)) = form_urlencoded::parse(pair.as_bytes()).find(|(name, _)| name == "ns") else {
            rest.push(pair);
            continue;
        };
        if namespace.as_deref().is_some_and(|before| before != named) {
            return Err(NoRoute {
                status: StatusCode::BAD_REQUEST,
                code: "UNSUPPORTED",
                message: format!("{query:?} names two registries"),
            });
        }
        namespace = Some(named.into_owned());
    }
    // An empty one names nothing.
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let rest =
        if rest.is_empty() { path.path().to_owned() } else { format!("{}?{}", path.path(), rest.join("&")) };
    Ok((namespace, rest.parse().expect("a part of a valid path and query")))
}

/// What stands in front of a repository, decoded, and the path without it.
fn path_in_front(path: &PathAndQuery) -> Option<(String, PathAndQuery)> {
    let (first, rest) = path.path().strip_prefix("/v2/")?.split_once('/')?;
    let first = percent_decode_str(first).decode_utf8().ok()?.into_owned();
    let query = path.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some((first, format!("/v2/{rest}{query}").parse().expect("a part of a valid path and query")))
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
            ["/v2/app/manifests/v1?ns=evil.test", "/v2/evil.test:5000/app/manifests/v1", "/v2/?ns=10.0.0.1"]
        {
            let refused = routed(path, &["harbor.test"]).unwrap_err();
            assert_eq!(refused.code, "NAME_UNKNOWN");
            assert!(refused.message.contains("harbor.test"), "{}", refused.message);
        }
        for path in ["/v2/app/manifests/v1", "/v2/evil.test/app/manifests/v1"] {
            let refused = routed(path, &["a.test", "b.test"]).unwrap_err();
            assert!(refused.message.contains("a.test, b.test"), "{}", refused.message);
        }
        assert!(routed("/etc/passwd", &["a.test"]).is_err());
    }

    #[test]
    fn what_an_operator_wrote_in_front_wins_over_what_containerd_adds() {
        let configured = ["reg.test", "hub.test", "docker.io"];
        for ns in ["docker.io", "hub.test", "reg.test", "nobody.test", ""] {
            assert_eq!(
                routed(&format!("/v2/reg.test/plain/manifests/v1?ns={ns}"), &configured),
                expect(FrontDoor::Prefix, "reg.test", "/v2/plain/manifests/v1"),
                "ns={ns}"
            );
        }
    }

    #[test]
    fn a_project_with_a_dot_belongs_to_the_registry_that_is_meant_anyway() {
        let path = "/v2/my.team/app/manifests/v1";
        assert_eq!(routed(path, &["harbor.test"]), expect(FrontDoor::Mirror, "harbor.test", path));
        assert_eq!(
            routed(&format!("{path}?ns=b.test"), &["a.test", "b.test"]),
            expect(FrontDoor::Mirror, "b.test", path)
        );
        let default = "b.test".parse().unwrap();
        let target = route(&path.parse().unwrap(), &hosts(&["a.test", "b.test"]), Some(&default)).unwrap();
        assert_eq!((target.upstream, target.path.as_str()), (default, path));
    }

    #[test]
    fn a_name_is_the_same_however_it_is_written() {
        let configured = ["reg.test:5000", "10.0.0.1:5000", "[fd00::1]:5000", "[fd00::2]"];
        for (written, meant) in [
            ("REG.test:5000", "reg.test:5000"),
            ("reg.test%3A5000", "reg.test:5000"),
            ("re%67.test%3a5000", "reg.test:5000"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
            ("[fd00::1]:5000", "[fd00::1]:5000"),
            ("%5Bfd00%3A%3A1%5D%3A5000", "[fd00::1]:5000"),
            ("[fd00:0:0:0:0:0:0:1]:5000", "[fd00::1]:5000"),
            ("[fd00::2]:443", "[fd00::2]"),
        ] {
            let path = "/v2/a/tags/list?n=1";
            assert_eq!(
                routed(&format!("/v2/{written}/a/tags/list?n=1"), &configured),
                expect(FrontDoor::Prefix, meant, path),
                "{written}"
            );
            assert_eq!(
                routed(&format!("{path}&ns={written}"), &configured),
                expect(FrontDoor::Mirror, meant, path),
                "{written}"
            );
            assert_eq!(
                routed(&format!("/v2/a/tags/list?n%73={written}&n=1"), &configured),
                expect(FrontDoor::Mirror, meant, path),
                "{written}"
            );
        }
    }

    #[test]
    fn two_registries_in_one_query_are_one_too_many() {
        let refused = routed("/v2/a/tags/list?ns=a.test&ns=b.test", &["a.test", "b.test"]).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(routed("/v2/a/tags/list?ns=a.test&ns=a.test", &["a.test", "b.test"]).is_ok());
    }

    /// Each combination of what may name a registry, against the order that `route` documents.
    #[test]
    fn the_order_of_precedence_holds_for_every_combination() {
        for configured in [&["a.test"][..], &["a.test", "b.test"], &[]] {
            for default in [None, configured.last()] {
                for front in ["", "a.test/", "b.test/", "dotted.team/", "odd.test:5000/", "plain/"] {
                    for ns in [None, Some("a.test"), Some("b.test"), Some("odd.test")] {
                        let query = ns.map(|ns| format!("?ns={ns}")).unwrap_or_default();
                        let path = format!("/v2/{front}app/manifests/v1{query}");
                        let is_configured = |name: &str| configured.contains(&name);
                        let first = front.trim_end_matches('/');
                        let meant = if is_configured(first) {
                            Some(first)
                        } else if let Some(ns) = ns {
                            Some(ns).filter(|ns| is_configured(ns))
                        } else if front.contains(':') {
                            None
                        } else {
                            let only = configured.first().filter(|_| configured.len() == 1);
                            default.or(only).copied()
                        };
                        let default = default.map(|name| name.parse().unwrap());
                        let target = route(&path.parse().unwrap(), &hosts(configured), default.as_ref());
                        let got = target.as_ref().ok().map(|target| target.upstream.as_str());
                        assert_eq!(got, meant, "{path} of {configured:?}, default {default:?}");
                    }
                }
            }
        }
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
