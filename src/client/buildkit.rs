//! buildkitd: a mirror in `buildkitd.toml`.

use super::edit::with_buildkit_mirror;
use super::plan::{Plan, PlanError, Works};
use super::request::{Client, DoorName, Request};
use super::tree::Tree;

/// The files of a setup.
pub(super) fn plan(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let why = match request.door {
        DoorName::Mirror => return mirror(request, tree),
        DoorName::Proxy => {
            "buildctl fetches the tokens, so each of its callers would need the proxy and the CA"
        }
        DoorName::Prefix => "the names in every Dockerfile would have to change",
        DoorName::Sni => "buildkitd.toml does the same without a line in /etc/hosts, and falls back",
    };
    Err(PlanError::Door { client: Client::Buildkit, door: request.door, why, works: WORKS })
}

fn mirror(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let mut plan = Plan::pulling(format!(
        "buildctl build … with a Dockerfile of `FROM {}/REPOSITORY:TAG`",
        request.registry
    ));
    let (registry, peer) = (request.registry.as_str(), request.peer.authority());
    plan.edit(tree, "/etc/buildkit/buildkitd.toml", |text| with_buildkit_mirror(text, registry, peer))?
        .read_after("systemctl restart buildkit");
    plan.note("The BuildKit inside dockerd goes dockerd's way: flotilla client setup docker.");
    plan.note(
        "buildctl sends the credentials of a host to that host alone: for private images, it needs some for \
         the peer's too.",
    );
    Ok(plan)
}

const WORKS: &[Works] = &[(DoorName::Mirror, "buildkitd.toml; buildkitd restarts once")];
