//! Docker Hub's names at the doors that are told them: Docker's own images have one component as people
//! write them, and lie below `library/` in the registry. A client that knows the hub says so itself; one
//! that takes this node for some registry does not.

use std::borrow::Cow;

use flotilla_proto::RegistryHost;
use http::uri::PathAndQuery;

use super::route::Target;
use super::token;

/// The same target with the repository as the registry knows it.
pub(super) fn known_name(target: Target) -> Target {
    if !target.upstream.is_docker_hub() || target.door.plays_registry() {
        return target;
    }
    let path = match token::is_token_path(target.path.path()) {
        true => scopes(&target.path, &target.upstream),
        false => repository(&target.path, &target.upstream),
    };
    Target { path: path.unwrap_or(target.path), ..target }
}

/// `/v2/<name>/<kind>/<reference>`; `None` where nothing changes.
fn repository(path: &PathAndQuery, hub: &RegistryHost) -> Option<PathAndQuery> {
    let (name, rest) = path.path().strip_prefix("/v2/")?.split_once('/')?;
    let (kind, reference) = rest.split_once('/')?;
    if !KINDS.contains(&kind) || reference.contains('/') {
        return None;
    }
    let Cow::Owned(name) = hub.repository(name) else { return None };
    let query = path.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("/v2/{name}/{rest}{query}").parse().ok()
}

/// `repository:<name>:<actions>` in each `scope=`.
fn scopes(path: &PathAndQuery, hub: &RegistryHost) -> Option<PathAndQuery> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(path.query()?.as_bytes()) {
        let parts = value.strip_prefix("repository:").and_then(|rest| rest.split_once(':'));
        match parts.filter(|_| key == "scope") {
            Some((name, actions)) => {
                query.append_pair(&key, &format!("repository:{}:{actions}", hub.repository(name)))
            }
            None => query.append_pair(&key, &value),
        };
    }
    format!("{}?{}", path.path(), query.finish()).parse().ok()
}

const KINDS: [&str; 4] = ["manifests", "blobs", "tags", "referrers"];

#[cfg(test)]
mod tests {
    use super::super::route::FrontDoor;
    use super::*;

    fn known(door: FrontDoor, upstream: &str, path: &str) -> String {
        let target = Target { door, upstream: upstream.parse().unwrap(), path: path.parse().unwrap() };
        known_name(target).path.to_string()
    }

    #[test]
    fn an_image_of_one_component_is_the_hubs_own() {
        for door in [FrontDoor::Mirror, FrontDoor::Prefix] {
            for (path, expected) in [
                ("/v2/alpine/manifests/3", "/v2/library/alpine/manifests/3"),
                ("/v2/alpine/blobs/sha256:0", "/v2/library/alpine/blobs/sha256:0"),
                ("/v2/alpine/tags/list?n=1", "/v2/library/alpine/tags/list?n=1"),
                (
                    "/flotilla/token?scope=repository%3Aalpine%3Apull&account=a",
                    "/flotilla/token?scope=repository%3Alibrary%2Falpine%3Apull&account=a",
                ),
            ] {
                assert_eq!(known(door, "docker.io", path), expected);
                assert_eq!(known(door, "reg.test", path), path, "no other registry has such names");
            }
            for path in [
                "/v2/",
                "/v2/_catalog",
                "/v2/library/alpine/manifests/3",
                "/v2/grafana/blobs/manifests/v1",
                "/flotilla/token?scope=repository%3Agrafana%2Fgrafana%3Apull",
                "/flotilla/token?scope=registry%3Acatalog%3A*",
            ] {
                assert_eq!(known(door, "docker.io", path), path);
            }
        }
        let path = "/v2/alpine/manifests/3";
        assert_eq!(known(FrontDoor::Proxy, "docker.io", path), path, "its client speaks to the hub itself");
    }
}
