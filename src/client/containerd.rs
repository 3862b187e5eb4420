//! containerd: a `hosts.toml` for each registry.

use std::path::{Path, PathBuf};

use super::edit::{ConfigPath, config_path, with_ca, with_config_path, with_mirror_host};
use super::plan::{Plan, PlanError, Works};
use super::request::{Client, DoorName, Request};
use super::systemd;
use super::tree::Tree;

/// The files of a setup.
pub(super) fn plan(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let refused = |why| {
        let (client, door) = (Client::Containerd, request.door);
        Err(PlanError::Door { client, door, why, works: WORKS })
    };
    match request.door {
        DoorName::Mirror => mirror(request, tree),
        DoorName::Proxy => proxy(request, tree),
        DoorName::Prefix => refused("the names of images in manifests and policies would have to change"),
        DoorName::Sni => refused("hosts.toml does the same without a line in /etc/hosts, and falls back"),
    }
}

fn mirror(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let mut plan = pulling(request);
    let dir = certs_dir(&mut plan, tree)?;
    let registry = registry_dir(tree, &dir, request)?;
    let (host, peer) = (&request.registry, request.peer.to_string());
    plan.edit(tree, registry.join("hosts.toml"), |text| with_mirror_host(text, host, &peer))?;
    note_default(&mut plan, tree, &dir)?;
    plan.note("While the peer does not run, containerd reads the registry itself.");
    Ok(plan)
}

fn proxy(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    if request.registry_is_loopback() {
        return Err(PlanError::Loopback { registry: request.registry.to_string() });
    }
    let mut plan = pulling(request);
    let dir = certs_dir(&mut plan, tree)?;
    let registry = registry_dir(tree, &dir, request)?;
    let ca = registry.join("flotilla.crt");
    plan.ca(tree, ca.clone(), request)?;
    let (host, ca) = (&request.registry, ca.display().to_string());
    plan.edit(tree, registry.join("hosts.toml"), |text| with_ca(text, host, &ca))?;
    note_default(&mut plan, tree, &dir)?;
    systemd::proxy(&mut plan, tree, "containerd.service", &request.peer.to_string())?
        .read_after("systemctl daemon-reload && systemctl restart containerd");
    plan.note("`ctr` up to 1.7 reads the registry by itself: give it HTTPS_PROXY and --tlscacert.");
    plan.note("While the peer does not run, containerd reaches no HTTPS registry.");
    Ok(plan)
}

fn pulling(request: &Request) -> Plan {
    Plan::pulling(format!("crictl pull {}/REPOSITORY:TAG", request.registry))
}

/// Where `hosts.toml` files lie; adds the edit that makes the CRI plugin look there.
fn certs_dir(plan: &mut Plan, tree: &Tree) -> Result<PathBuf, PlanError> {
    let text = tree.text(CONFIG.as_ref())?.unwrap_or_default();
    let found = config_path(&text).map_err(|error| PlanError::Edit { file: CONFIG.into(), error })?;
    if found == ConfigPath::NoCri {
        plan.note(format!(
            "{CONFIG} switches the CRI plugin off: only nerdctl, and ctr with --hosts-dir {CERTS}, read the \
             files. For Kubernetes, switch it on and run this again."
        ));
    }
    let dir = match found {
        ConfigPath::Set(dir) => dir,
        ConfigPath::Unset | ConfigPath::NoCri => CERTS.to_owned(),
    };
    plan.edit(tree, CONFIG, |text| with_config_path(text, &dir))?.read_after("systemctl restart containerd");
    Ok(dir.into())
}

/// containerd looks for `host_port_` before `host:port`.
fn registry_dir(tree: &Tree, dir: &Path, request: &Request) -> Result<PathBuf, PlanError> {
    if let Some((host, port)) = request.registry.as_str().rsplit_once(':') {
        let other = dir.join(format!("{host}_{port}_"));
        if tree.metadata(&other)?.is_some() {
            return Ok(other);
        }
    }
    Ok(dir.join(request.registry.as_str()))
}

/// A registry's own directory hides the default's.
fn note_default(plan: &mut Plan, tree: &Tree, dir: &Path) -> Result<(), PlanError> {
    let file = dir.join("_default/hosts.toml");
    if tree.metadata(&file)?.is_some() {
        plan.note(format!(
            "{} is for registries without a directory of their own: it holds for this one no longer.",
            file.display()
        ));
    }
    Ok(())
}

const WORKS: &[Works] = &[
    (DoorName::Mirror, "hosts.toml, read at each pull"),
    (DoorName::Proxy, "for what must go through the peer; containerd restarts once"),
];

const CONFIG: &str = "/etc/containerd/config.toml";

const CERTS: &str = "/etc/containerd/certs.d";
