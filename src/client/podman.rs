//! Podman, Buildah, skopeo and CRI-O read the same files.

use std::env;
use std::path::{Path, PathBuf};

use super::edit::{has_auth, names_registry, with_auth_of, with_mirror};
use super::plan::{Plan, PlanError, Works};
use super::request::{Client, DoorName, Request};
use super::systemd;
use super::tree::Tree;

/// The files of a setup.
pub(super) fn plan(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let refused = |why| {
        let (client, door) = (request.client, request.door);
        Err(PlanError::Door { client, door, why, works: WORKS })
    };
    match request.door {
        DoorName::Mirror => mirror(request, tree),
        DoorName::Proxy => proxy(request, tree),
        DoorName::Prefix => refused("the mirror door does the same and keeps the image's name"),
        DoorName::Sni => {
            refused("registries.conf does the same without a line in /etc/hosts, and falls back")
        }
    }
}

fn mirror(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    let mut plan = Plan::pulling(pull_command(request));
    let registry = request.registry.as_str();
    // In front of the repository there is no doubt which registry is meant. A port cannot stand there.
    let mirror = if request.registry_has_port() {
        if request.may_be_confused() {
            plan.note(format!(
                "A registry with a port cannot be named to the mirror: with several in the region, set \
                 default_upstream = \"{registry}\" under [door] in /etc/flotilla/peer.toml."
            ));
        }
        request.peer.authority().to_owned()
    } else {
        request.prefixed()
    };
    let file = registries_conf(tree, registry)?;
    let edit = plan.edit(tree, file, |text| with_mirror(text, registry, &mirror))?;
    if request.client == Client::Crio {
        edit.read_after("systemctl reload crio");
    }
    credentials(&mut plan, request, tree, &mirror)?;
    plan.note("While the peer does not run, the registry itself is read.");
    Ok(plan)
}

fn proxy(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    if request.registry_is_loopback() {
        return Err(PlanError::Loopback { registry: request.registry.to_string() });
    }
    let (pull, peer) = (pull_command(request), request.peer.to_string());
    let mut plan = Plan::pulling(pull.clone());
    let ca = format!("/etc/containers/certs.d/{}/flotilla.crt", request.registry);
    plan.ca(tree, ca.into(), request)?;
    if request.client == Client::Crio {
        systemd::proxy(&mut plan, tree, "crio.service", &peer)?
            .read_after("systemctl daemon-reload && systemctl restart crio");
        plan.note("While the peer does not run, CRI-O reaches no HTTPS registry.");
    } else {
        plan.pull = format!("HTTPS_PROXY={peer} {pull}");
        plan.note("The proxy is each command's own: set HTTPS_PROXY where you call it.");
    }
    Ok(plan)
}

fn pull_command(request: &Request) -> String {
    let command = if request.client == Client::Crio { "crictl" } else { "podman" };
    format!("{command} pull {}/REPOSITORY:TAG", request.registry)
}

/// The last file that names the registry is the one that counts; one of our own where none does.
fn registries_conf(tree: &Tree, registry: &str) -> Result<PathBuf, PlanError> {
    let main = PathBuf::from("/etc/containers/registries.conf");
    let snippets = tree.files(SNIPPETS.as_ref(), "conf")?;
    for file in snippets.into_iter().rev().chain([main]) {
        let text = tree.text(&file)?.unwrap_or_default();
        let named = names_registry(&text, registry);
        if named.map_err(|error| PlanError::Edit { file: file.clone(), error })? {
            return Ok(file);
        }
    }
    let name = registry.replace([':', '[', ']'], "_");
    Ok(Path::new(SNIPPETS).join(format!("50-flotilla-{name}.conf")))
}

/// A registry's credentials are not sent to its mirror: the mirror needs an entry of its own.
fn credentials(plan: &mut Plan, request: &Request, tree: &Tree, mirror: &str) -> Result<(), PlanError> {
    let registry = request.registry.as_str();
    let Some(file) = authfile(request, tree)? else {
        plan.note(format!(
            "No auth.json has credentials for {registry}. A private image goes silently past the peer, to the \
             registry itself. After a login, run this again, with --authfile if the file is elsewhere."
        ));
        return Ok(());
    };
    // Docker's own file knows hosts only.
    let is_dockers = file.ends_with(".docker/config.json");
    let key = if is_dockers { request.peer.authority() } else { mirror };
    plan.edit(tree, file.clone(), |text| with_auth_of(text, &request.registry, key))?.secret = true;
    plan.note(format!(
        "The credentials for {registry} in {} were copied to {key}. After another login, or a reboot where \
         the file is below /run, run this again.",
        file.display()
    ));
    Ok(())
}

/// The file that has the registry's credentials.
fn authfile(request: &Request, tree: &Tree) -> Result<Option<PathBuf>, PlanError> {
    let candidates = match &request.authfile {
        None => usual_authfiles(request.client),
        Some(file) if tree.metadata(file)?.is_some() => vec![file.clone()],
        Some(file) => return Err(PlanError::NoAuthfile { file: file.clone() }),
    };
    for file in candidates {
        let text = tree.text(&file)?.unwrap_or_default();
        let has = has_auth(&text, &request.registry);
        if has.map_err(|error| PlanError::Edit { file: file.clone(), error })? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// containers-auth.json(5); CRI-O and the kubelet have theirs elsewhere.
fn usual_authfiles(client: Client) -> Vec<PathBuf> {
    let below = |variable, rest: &str| Some(PathBuf::from(env::var_os(variable)?).join(rest));
    let of_a_person = || {
        [
            env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from),
            below("XDG_RUNTIME_DIR", "containers/auth.json"),
            Some("/run/containers/0/auth.json".into()),
            below("HOME", ".config/containers/auth.json"),
            below("HOME", ".docker/config.json"),
        ]
    };
    let of_a_node =
        ["/etc/containers/auth.json", "/var/lib/kubelet/config.json"].map(|file| Some(file.into()));
    match client {
        Client::Crio => of_a_node.into_iter().flatten().collect(),
        Client::Docker | Client::Containerd | Client::Podman | Client::Buildkit => {
            of_a_person().into_iter().chain(of_a_node).flatten().collect()
        }
    }
}

const WORKS: &[Works] = &[
    (
        DoorName::Mirror,
        "registries.conf, read by each command; private images need credentials for the mirror",
    ),
    (DoorName::Proxy, "private images without more; HTTPS_PROXY is set where the command is called"),
];

const SNIPPETS: &str = "/etc/containers/registries.conf.d";
