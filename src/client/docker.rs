//! dockerd: a proxy, a mirror of Docker Hub, a longer name, or an entry in /etc/hosts.

use std::path::Path;

use flotilla_proto::RegistryHost;

use super::edit::{https_proxy, with_host, with_proxy, with_registry_mirror};
use super::plan::{Plan, PlanError, Works};
use super::request::{DoorName, Request};
use super::systemd::{self, NO_PROXY};
use super::tree::Tree;

/// The files of a setup.
pub(super) fn plan(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    match request.door {
        DoorName::Proxy => proxy(request, tree),
        DoorName::Mirror => mirror(request, tree),
        DoorName::Prefix => prefix(request),
        DoorName::Sni => sni(request, tree),
    }
}

fn proxy(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let registry = &request.registry;
    if request.registry_is_loopback() {
        return Err(PlanError::Loopback { registry: registry.to_string() });
    }
    let mut plan = Plan::pulling(pull_command(registry));
    ca(&mut plan, request, tree)?;
    let peer = request.peer.to_string();
    // Of the two places, daemon.json wins: neither may name another proxy.
    let daemon_json = tree.text(DAEMON_JSON.as_ref())?.unwrap_or_default();
    let there =
        https_proxy(&daemon_json).map_err(|error| PlanError::Edit { file: DAEMON_JSON.into(), error })?;
    if let Some(proxy) = there.filter(|proxy| *proxy != peer) {
        return Err(PlanError::ProxyTaken { file: DAEMON_JSON.into(), proxy });
    }
    if request.daemon_json {
        systemd::refuse_other_proxy(tree, UNIT, &peer)?;
        plan.edit(tree, DAEMON_JSON, |text| with_proxy(text, &peer, NO_PROXY))?.read_after(RESTART);
        plan.note("dockerd reads `proxies` in daemon.json from version 23 on; 20.10 does not start with it.");
    } else {
        systemd::proxy(&mut plan, tree, UNIT, &peer)?.read_after(RELOAD_AND_RESTART);
    }
    plan.note("While the peer does not run, dockerd reaches no HTTPS registry.");
    let hub =
        request.carried.iter().flatten().find(|carried| carried.is_docker_hub() && *carried != registry);
    if let Some(hub) = hub {
        plan.note(format!(
            "The peer carries {hub} too, and dockerd reads it through this proxy: run flotilla client setup \
             docker --registry {hub} --door proxy as well."
        ));
    }
    Ok(plan)
}

fn mirror(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    if !request.registry.is_docker_hub() {
        return Err(PlanError::HubOnly { registry: request.registry.to_string(), works: WORKS });
    }
    let mut plan = Plan::pulling("docker pull REPOSITORY:TAG".to_owned());
    let peer = request.peer.to_string();
    // A reload keeps the old mirrors where the key is gone (measured with 20.10).
    let edit = plan.edit(tree, DAEMON_JSON, |text| with_registry_mirror(text, &peer))?;
    edit.read_after(RELOAD).forgotten_after(RESTART);
    if request.may_be_confused() {
        plan.note(
            "dockerd does not say which registry it means: with several in the region, set \
             default_upstream = \"docker.io\" under [door] in /etc/flotilla/peer.toml.",
        );
    }
    Ok(plan)
}

fn prefix(request: &Request) -> Result<Plan, PlanError> {
    if request.registry_has_port() {
        return Err(PlanError::Port { registry: request.registry.to_string() });
    }
    let image = request.prefixed();
    let mut plan = Plan::pulling(format!("docker pull {image}/REPOSITORY:TAG"));
    plan.note("The prefix door needs no file: the image's name says it.");
    plan.note(format!("For private images: docker login {}", request.peer.authority()));
    if !request.peer.is_loopback() {
        plan.note(
            "dockerd speaks plain HTTP to 127.0.0.0/8 alone, unless `insecure-registries` names the peer.",
        );
    }
    Ok(plan)
}

fn sni(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let registry = request.registry.dialled();
    if request.registry_has_port() || registry.parse::<std::net::IpAddr>().is_ok() {
        return Err(PlanError::NoName { registry: registry.to_owned() });
    }
    let mut plan = Plan::pulling(pull_command(&request.registry));
    ca(&mut plan, request, tree)?;
    let address = if request.peer.host() == "localhost" { "127.0.0.1" } else { request.peer.host() };
    plan.edit(tree, "/etc/hosts", |text| with_host(text, registry, address))?;
    plan.note(format!(
        "The peer must listen on port 443 of {address}. A seed on this machine must be told the registry's \
         own address: flotilla registry set --address."
    ));
    if request.peer.is_loopback() {
        plan.note(
            "127.0.0.0/8 is insecure to dockerd: it takes any certificate there, and falls back to plain \
             HTTP. Whoever may listen on this machine's port 443 is trusted. An address of the node that is \
             not loopback, with --peer, has no such hole.",
        );
    }
    plan.note("There is no fallback, and the registry's other users on this machine take this way too.");
    Ok(plan)
}

fn pull_command(registry: &RegistryHost) -> String {
    match registry.is_docker_hub() {
        true => "docker pull REPOSITORY:TAG".to_owned(),
        false => format!("docker pull {registry}/REPOSITORY:TAG"),
    }
}

/// dockerd looks below `certs.d` at each pull; the directory's name has the port. For the hub it looks
/// there for nothing: it trusts the system's certificates alone (moby's `lookupV2Endpoints`).
fn ca(plan: &mut Plan, request: &Request, tree: &Tree) -> Result<(), PlanError> {
    if !request.registry.is_docker_hub() {
        let file = format!("/etc/docker/certs.d/{}/flotilla.crt", request.registry);
        return plan.ca(tree, file.into(), request).map(drop);
    }
    let of_red_hat = "/etc/pki/ca-trust/source/anchors";
    let (dir, command) = match tree.metadata(of_red_hat.as_ref())? {
        Some(_) => (of_red_hat, "update-ca-trust && systemctl daemon-reload && systemctl restart docker"),
        None => (
            "/usr/local/share/ca-certificates",
            "update-ca-certificates && systemctl daemon-reload && systemctl restart docker",
        ),
    };
    let file = Path::new(dir).join("flotilla-docker.io.crt");
    plan.ca(tree, file, request)?.read_after(command);
    plan.note(
        "For Docker Hub dockerd trusts the system's certificates alone: all programs of this machine come to \
         trust the peer's CA, which can sign Docker Hub's names and no others.",
    );
    Ok(())
}

const WORKS: &[Works] = &[
    (DoorName::Proxy, "for every registry; dockerd restarts once"),
    (DoorName::Prefix, "for every registry without a port; the image's name changes"),
    (DoorName::Sni, "for every registry on port 443; /etc/hosts leads it to the peer"),
];

const UNIT: &str = "docker.service";

/// dockerd's configuration.
pub(super) const DAEMON_JSON: &str = "/etc/docker/daemon.json";

const RELOAD: &str = "systemctl reload docker";

const RESTART: &str = "systemctl restart docker";

const RELOAD_AND_RESTART: &str = "systemctl daemon-reload && systemctl restart docker";
