//! Every client in a tree of its own: set up, set up again, undone.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A machine with files of its own, and a peer's data directory beside it.
struct Machine {
    root: TempDir,
    data: TempDir,
}

#[test]
fn every_setup_is_done_once_and_undone_to_the_byte() {
    for (client, door) in ALL {
        let machine = Machine::with_files();
        let before = machine.files();
        let registry =
            if (client, door) == (Client::Docker, DoorName::Mirror) { "docker.io" } else { "reg.test" };
        let request = machine.request(client, door, registry);
        let report = setup(&request, &machine.tree(), false).unwrap();
        let after = machine.files();
        assert_ne!(before, after, "{client} {door}");
        assert!(report.for_people().contains("To pull:"), "{client} {door}");

        let again = setup(&request, &machine.tree(), false).unwrap();
        assert_eq!(machine.files(), after, "{client} {door} again");
        assert!(again.for_people().contains("nothing was changed"), "{}", again.for_people());

        machine.undo(client, Some(registry)).unwrap();
        assert_eq!(machine.files(), before, "{client} {door} undone");
        assert!(!machine.path("var/lib/flotilla-client-setup").exists(), "{client} {door}");
    }
}

#[test]
fn a_machine_without_any_file_is_left_without_any() {
    for (client, door) in ALL {
        let machine = Machine::empty();
        let registry =
            if (client, door) == (Client::Docker, DoorName::Mirror) { "docker.io" } else { "reg.test" };
        setup(&machine.request(client, door, registry), &machine.tree(), false).unwrap();
        machine.undo(client, None).unwrap();
        assert_eq!(machine.files(), BTreeMap::new(), "{client} {door}");
    }
}

#[test]
fn a_dry_run_shows_the_change_and_writes_nothing() {
    let machine = Machine::with_files();
    let before = machine.files();
    let request = machine.request(Client::Containerd, DoorName::Mirror, "reg.test");
    let report = setup(&request, &machine.tree(), true).unwrap().for_people();
    assert_eq!(machine.files(), before);
    for line in [
        "+++ b/etc/containerd/certs.d/reg.test/hosts.toml",
        "+[host.\"http://127.0.0.1:4001/v2/reg.test\"]",
        "+      config_path = \"/etc/containerd/certs.d\"",
        "  systemctl restart containerd",
    ] {
        assert!(report.lines().any(|found| found.trim_end() == line), "{line} is not in\n{report}");
    }
    let secret = machine.request(Client::Podman, DoorName::Mirror, "reg.test");
    let report = setup(&secret, &machine.tree(), true).unwrap().for_people();
    assert!(report.contains("(credentials: not shown)") && !report.contains("c2VjcmV0"), "{report}");
}

#[test]
fn what_a_dry_run_shows_patch_does() {
    for (client, door) in ALL {
        for machine in [Machine::with_files(), Machine::empty()] {
            let registry =
                if (client, door) == (Client::Docker, DoorName::Mirror) { "docker.io" } else { "reg.test" };
            let request = machine.request(client, door, registry);
            let shown = setup(&request, &machine.tree(), true).unwrap().for_people();
            let mut patch = Command::new("patch");
            patch.args(["-p1", "--fuzz=0", "-d"]).arg(machine.root.path());
            let mut patch = match patch.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
                started => started.unwrap(),
            };
            patch.stdin.take().unwrap().write_all(shown.as_bytes()).unwrap();
            let output = patch.wait_with_output().unwrap();
            assert!(output.status.success(), "{client} {door}: {output:?}\n{shown}");
            let mut by_patch = machine.files();
            setup(&request, &machine.tree(), false).unwrap();
            let mut done = machine.files();
            // Credentials are shown to nobody.
            by_patch.remove("etc/containers/auth.json");
            done.remove("etc/containers/auth.json");
            assert_eq!(by_patch, done, "{client} {door}");
        }
    }
}

#[test]
fn a_file_that_somebody_changed_since_is_left_alone() {
    let machine = Machine::with_files();
    let before = machine.files();
    let request = machine.request(Client::Docker, DoorName::Mirror, "docker.io");
    setup(&request, &machine.tree(), false).unwrap();
    fs::write(machine.path("etc/docker/daemon.json"), "{}").unwrap();
    let changed = machine.files();
    let error = machine.undo(Client::Docker, None).unwrap_err().to_string();
    assert!(error.starts_with("/etc/docker/daemon.json was changed by somebody else since"), "{error}");
    assert!(error.contains("/var/lib/flotilla-client-setup/1-"), "{error}");
    assert_eq!(machine.files(), changed);
    // As the message says: put it back, and again.
    fs::write(machine.path("etc/docker/daemon.json"), &before["etc/docker/daemon.json"]).unwrap();
    machine.undo(Client::Docker, None).unwrap();
    assert_eq!(machine.files(), before);
}

#[test]
fn what_two_registries_share_stays_for_the_second() {
    let machine = Machine::with_files();
    let before = machine.files();
    for registry in ["reg.test", "b.test"] {
        setup(&machine.request(Client::Containerd, DoorName::Mirror, registry), &machine.tree(), false)
            .unwrap();
    }
    let report = machine.undo(Client::Containerd, Some("reg.test")).unwrap().for_people();
    assert!(
        report.contains("/etc/containerd/config.toml stays: it serves containerd for b.test too."),
        "{report}"
    );
    assert!(!machine.path("etc/containerd/certs.d/reg.test").exists());
    let config = fs::read_to_string(machine.path("etc/containerd/config.toml")).unwrap();
    assert!(config.contains("config_path"));
    machine.undo(Client::Containerd, Some("b.test")).unwrap();
    assert_eq!(machine.files(), before);
}

#[test]
fn of_two_changes_of_a_file_the_last_is_undone_first() {
    let machine = Machine::with_files();
    let before = machine.files();
    for registry in ["reg.test", "b.test"] {
        setup(&machine.request(Client::Buildkit, DoorName::Mirror, registry), &machine.tree(), false)
            .unwrap();
    }
    let error = machine.undo(Client::Buildkit, Some("reg.test")).unwrap_err().to_string();
    assert!(error.ends_with("flotilla client setup buildkit --registry b.test --undo"), "{error}");
    machine.undo(Client::Buildkit, None).unwrap();
    assert_eq!(machine.files(), before);
}

#[test]
fn another_address_of_the_peer_replaces_the_first_one() {
    let machine = Machine::empty();
    let mut request = machine.request(Client::Docker, DoorName::Proxy, "reg.test");
    setup(&request, &machine.tree(), false).unwrap();
    request.peer = "http://127.0.0.1:5001".parse().unwrap();
    setup(&request, &machine.tree(), false).unwrap();
    let drop_in =
        fs::read_to_string(machine.path("etc/systemd/system/docker.service.d/flotilla.conf")).unwrap();
    assert!(drop_in.contains("5001") && !drop_in.contains("4001"), "{drop_in}");
    machine.undo(Client::Docker, None).unwrap();
    assert_eq!(machine.files(), BTreeMap::new());
}

#[test]
fn credentials_are_for_their_owner_and_public_files_for_all() {
    let machine = Machine::with_files();
    setup(&machine.request(Client::Podman, DoorName::Mirror, "reg.test"), &machine.tree(), false).unwrap();
    let mode = |file: &str| fs::metadata(machine.path(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("etc/containers/auth.json"), 0o600);
    assert_eq!(mode("etc/containers/registries.conf.d/50-flotilla-reg.test.conf"), 0o644);
    assert_eq!(mode("var/lib/flotilla-client-setup"), 0o700);
    let auth = fs::read_to_string(machine.path("etc/containers/auth.json")).unwrap();
    assert!(auth.contains("\"127.0.0.1:4001/reg.test\": {\"auth\": \"dTpzZWNyZXQ=\"}"), "{auth}");
}

#[test]
fn what_cannot_work_says_why_and_what_does() {
    let machine = Machine::with_files();
    fs::create_dir_all(machine.path("etc/systemd/system/containerd.service.d")).unwrap();
    let corp = machine.path("etc/systemd/system/containerd.service.d/corp.conf");
    fs::write(corp, "[Service]\nEnvironment=HTTPS_PROXY=http://corp:3128\n").unwrap();
    for (client, door, registry, words) in [
        (Client::Docker, DoorName::Mirror, "reg.test", "is for docker.io alone"),
        (Client::Docker, DoorName::Proxy, "127.0.0.1:5000", "use no proxy for it"),
        (Client::Docker, DoorName::Proxy, "new.test", "see `flotilla peer status`"),
        (Client::Docker, DoorName::Prefix, "b.test:5000", "cannot hold a second one"),
        (Client::Docker, DoorName::Sni, "b.test:5000", "stands in for port 443"),
        (Client::Containerd, DoorName::Sni, "reg.test", "These work:\n  --door mirror: hosts.toml"),
        (Client::Containerd, DoorName::Proxy, "reg.test", "corp.conf sends HTTPS through http://corp:3128"),
        (Client::Podman, DoorName::Prefix, "reg.test", "keeps the image's name. These work:"),
        (Client::Buildkit, DoorName::Proxy, "reg.test", "buildctl fetches the tokens"),
    ] {
        let error = setup(&machine.request(client, door, registry), &machine.tree(), false).unwrap_err();
        assert!(error.to_string().contains(words), "{client} {door} {registry}: {error}");
    }
}

#[test]
fn whoever_is_told_to_restart_dockerd_is_told_what_stops() {
    let report = |daemon_json: &str, door, registry| {
        let machine = Machine::empty();
        fs::create_dir_all(machine.path("etc/docker")).unwrap();
        fs::write(machine.path("etc/docker/daemon.json"), daemon_json).unwrap();
        let done = setup(&machine.request(Client::Docker, door, registry), &machine.tree(), false).unwrap();
        (done.for_people(), machine.undo(Client::Docker, None).unwrap().for_people())
    };
    let (done, undone) = report("{}", DoorName::Proxy, "reg.test");
    for text in [done, undone] {
        assert!(text.contains("STOPS EVERY CONTAINER") && text.contains("--door prefix"), "{text}");
    }
    let (done, undone) = report("{\"live-restore\": true}", DoorName::Proxy, "reg.test");
    for text in [done, undone] {
        assert!(text.contains("containers keep running") && !text.contains("STOPS"), "{text}");
    }
    let (reloaded, _) = report("{}", DoorName::Mirror, "docker.io");
    assert!(reloaded.contains("systemctl reload docker") && !reloaded.contains("STOPS"), "{reloaded}");
    let (sni, _) = report("{}", DoorName::Sni, "reg.test");
    assert!(!sni.contains("restart"), "{sni}");
}

#[test]
fn a_peer_that_carries_one_registry_needs_no_default_of_its_doors() {
    let machine = Machine::empty();
    for (carried, said) in
        [(None, true), (Some(&["docker.io"][..]), false), (Some(&["docker.io", "b.test"]), true)]
    {
        let mut request = machine.request(Client::Docker, DoorName::Mirror, "docker.io");
        request.carried = carried.map(|names| names.iter().map(|name| name.parse().unwrap()).collect());
        let report = setup(&request, &machine.tree(), true).unwrap().for_people();
        assert_eq!(report.contains("default_upstream"), said, "{report}");
        request.door = DoorName::Proxy;
        request.registry = "b.test".parse().unwrap();
        let report = setup(&request, &machine.tree(), true).unwrap().for_people();
        assert_eq!(report.contains("The peer carries docker.io too"), carried.is_some(), "{report}");
    }
}

#[test]
fn docker_hub_is_set_up_by_any_of_its_names() {
    for name in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        for (client, door, file, line) in [
            (
                Client::Docker,
                None,
                "etc/docker/daemon.json",
                "\"registry-mirrors\": [\"http://127.0.0.1:4001\"]",
            ),
            (
                Client::Docker,
                Some(DoorName::Proxy),
                "usr/local/share/ca-certificates/flotilla-docker.io.crt",
                "BEGIN CERTIFICATE",
            ),
            (Client::Docker, Some(DoorName::Sni), "etc/hosts", "127.0.0.1 registry-1.docker.io"),
            (
                Client::Containerd,
                None,
                "etc/containerd/certs.d/docker.io/hosts.toml",
                "[host.\"http://127.0.0.1:4001/v2/docker.io\"]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true",
            ),
            (
                Client::Podman,
                None,
                "etc/containers/registries.conf.d/50-flotilla-docker.io.conf",
                "location = \"127.0.0.1:4001/docker.io\"",
            ),
            (Client::Buildkit, None, "etc/buildkit/buildkitd.toml", "[registry.\"docker.io\"]"),
        ] {
            let machine = Machine::empty();
            let registry: RegistryHost = name.parse().unwrap();
            let door = door.unwrap_or(client.usual_door(&registry));
            setup(&machine.request(client, door, name), &machine.tree(), false).unwrap();
            let text = fs::read_to_string(machine.path(file)).unwrap();
            assert!(text.contains(line), "{client} {door}: {text}");
            assert!(!text.contains("server"), "{client} {door}: {text}");
        }
    }
}

#[test]
fn an_account_that_docker_keeps_for_its_hub_is_found() {
    let machine = Machine::empty();
    let file = machine.path("etc/containers/auth.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "{\"auths\": {\"https://index.docker.io/v1/\": {\"auth\": \"dTpw\"}}}").unwrap();
    setup(&machine.request(Client::Crio, DoorName::Mirror, "docker.io"), &machine.tree(), false).unwrap();
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("\"127.0.0.1:4001/docker.io\": {\"auth\": \"dTpw\"}"), "{text}");
}

#[test]
fn what_is_no_certificate_is_not_copied() {
    let machine = Machine::empty();
    fs::write(machine.data.path().join("ca/reg.test.pem"), "root:secret").unwrap();
    let error = setup(&machine.request(Client::Docker, DoorName::Proxy, "reg.test"), &machine.tree(), false);
    assert!(error.unwrap_err().to_string().ends_with("holds something else than one certificate"));
    assert_eq!(machine.files(), BTreeMap::new());
}

#[test]
fn a_registry_that_another_file_configures_gets_its_mirror_there() {
    let machine = Machine::with_files();
    let theirs = machine.path("etc/containers/registries.conf.d/99-corp.conf");
    fs::write(&theirs, "[[registry]]\nlocation = \"reg.test\"\nblocked = false\n").unwrap();
    setup(&machine.request(Client::Crio, DoorName::Mirror, "reg.test"), &machine.tree(), false).unwrap();
    assert!(fs::read_to_string(&theirs).unwrap().contains("127.0.0.1:4001/reg.test"));
    assert!(!machine.path("etc/containers/registries.conf.d/50-flotilla-reg.test.conf").exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever was set up in whatever order: undone in the opposite order, all is as it was.
    #[test]
    fn setups_undone_in_the_opposite_order_leave_nothing(
        order in prop::collection::vec((0..ALL.len(), prop::bool::ANY), 1..6)
    ) {
        let machine = Machine::with_files();
        let before = machine.files();
        let mut done: Vec<(Client, &str)> = Vec::new();
        for (which, second) in order {
            let (client, door) = ALL[which];
            let registry = match (client, door) {
                (Client::Docker, DoorName::Mirror) => "docker.io",
                _ if second => "b.test",
                _ => "reg.test",
            };
            let setup = setup(&machine.request(client, door, registry), &machine.tree(), false);
            prop_assert!(setup.is_ok(), "{client} {door}: {:?}", setup.unwrap_err());
            done.retain(|known| *known != (client, registry));
            done.push((client, registry));
        }
        // Only the last of each may come first: others may stand on it.
        while let Some((client, registry)) = done.pop() {
            if machine.undo(client, Some(registry)).is_err() {
                done.insert(0, (client, registry));
            }
        }
        prop_assert_eq!(machine.files(), before);
    }
}

/// All that can be set up with files.
const ALL: [(Client, DoorName); 9] = [
    (Client::Docker, DoorName::Proxy),
    (Client::Docker, DoorName::Mirror),
    (Client::Docker, DoorName::Sni),
    (Client::Containerd, DoorName::Mirror),
    (Client::Containerd, DoorName::Proxy),
    (Client::Podman, DoorName::Mirror),
    (Client::Podman, DoorName::Proxy),
    (Client::Crio, DoorName::Mirror),
    (Client::Buildkit, DoorName::Mirror),
];

impl Machine {
    fn empty() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap(), data: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.data.path().join("ca")).unwrap();
        for registry in ["reg.test", "b.test", "docker.io"] {
            fs::write(machine.data.path().join(format!("ca/{registry}.pem")), CERTIFICATE).unwrap();
        }
        machine
    }

    fn with_files() -> Self {
        let machine = Self::empty();
        for (file, text) in [
            ("etc/hosts", "127.0.0.1 localhost"),
            ("etc/docker/daemon.json", "{\"debug\":true, \"registry-mirrors\":[]}"),
            (
                "etc/containerd/config.toml",
                "version = 2\n\n[plugins]\n  # ours\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"\"\n",
            ),
            ("etc/containers/registries.conf", "# none\n"),
            ("etc/containers/registries.conf.d/shortnames.conf", "[aliases]\n"),
            (
                "etc/containers/auth.json",
                "{\"auths\": {\"reg.test\": {\"auth\": \"dTpzZWNyZXQ=\"}, \"b.test\": {}}}",
            ),
            ("etc/buildkit/buildkitd.toml", "debug = true\n"),
        ] {
            let path = machine.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        fs::set_permissions(machine.path("etc/containers/auth.json"), fs::Permissions::from_mode(0o600))
            .unwrap();
        machine
    }

    fn tree(&self) -> Tree {
        Tree::at(self.root.path()).unwrap()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    fn request(&self, client: Client, door: DoorName, registry: &str) -> Request {
        Request {
            client,
            door,
            registry: registry.parse().unwrap(),
            peer: "http://127.0.0.1:4001".parse().unwrap(),
            data_dir: self.data.path().to_owned(),
            authfile: None,
            daemon_json: false,
            carried: None,
        }
    }

    fn undo(&self, client: Client, registry: Option<&str>) -> anyhow::Result<Report> {
        let registry = registry.map(|registry| registry.parse().unwrap());
        let args = SetupArgs {
            client,
            registry,
            door: None,
            peer: None,
            admin: "http://127.0.0.1:1".parse().unwrap(),
            data_dir: self.data.path().to_owned(),
            authfile: None,
            daemon_json: false,
            root: self.root.path().to_owned(),
            dry_run: false,
            undo: true,
            output: OutputFormat::Table,
        };
        undo(&args, &self.tree())
    }

    /// Every file of the clients, by its path below the root.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let (mut files, mut dirs) = (BTreeMap::new(), vec![self.root.path().join("etc")]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let name = path.strip_prefix(self.root.path()).unwrap().display().to_string();
                    files.insert(name, fs::read(path).unwrap());
                }
            }
        }
        files
    }
}

/// Any will do: nothing here opens TLS.
const CERTIFICATE: &str = include_str!("../../tests/certificate.pem");
