//! The command line's manners, seen from outside.

// Helpers of tests are tests too; clippy's own exception is for functions marked `#[test]`.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread;

#[test]
fn help_and_version_are_plain_text_where_there_is_no_terminal() {
    for arguments in [&["--help"][..], &["demo", "--help"], &["peer", "--help"], &["--version"]] {
        let output = flotilla(arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(!stdout(&output).contains('\x1b'), "{arguments:?} is coloured");
    }
    assert_eq!(stdout(&flotilla(&["--version"])), format!("flotilla {}\n", env!("CARGO_PKG_VERSION")));
    assert!(stdout(&flotilla(&["demo", "--help"])).contains("Examples:\n  flotilla demo"));
}

#[test]
fn a_word_that_nobody_knows_is_answered_with_the_nearest() {
    let output = flotilla(&["demmo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("'demo'"), "{}", stderr(&output));
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = flotilla(&["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("flotilla"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_subcommand() {
    let directory = tempfile::tempdir().unwrap();
    let man = directory.path().join("man1");
    assert!(flotilla(&["man", "--dir", man.to_str().unwrap()]).status.success());
    for page in ["flotilla.1", "flotilla-demo.1", "flotilla-peer.1", "flotilla-peer-status.1"] {
        let text = std::fs::read_to_string(man.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(stdout(&flotilla(&["man"])).contains(".TH flotilla"));
}

#[test]
fn health_is_an_exit_code() {
    let (url, server) = answer_once("200 OK", "fine");
    assert!(flotilla(&["health", "--url", &url]).status.success());
    server.join().unwrap();

    let (url, server) = answer_once("503 Service Unavailable", "no manager");
    let output = flotilla(&["health", "--url", &url]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), format!("error: {url} answers 503 Service Unavailable: no manager\n"));

    let output = flotilla(&["health", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("refused"), "{}", stderr(&output));
}

#[test]
fn a_daemon_that_does_not_run_here_is_named_with_where_to_look() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for arguments in [
        &["peer", "status", "--admin", &format!("http://{nobody}")][..],
        &["health", "--url", &format!("http://{nobody}/healthz")],
    ] {
        let output = flotilla(arguments);
        assert_eq!(output.status.code(), Some(1));
        let expected = format!(
            "error: the peer does not run here, or not at {nobody}: systemctl status flotilla-peer; \
             journalctl -u flotilla-peer"
        );
        assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
    }
}

#[test]
fn contexts_are_kept_by_name_for_their_user_alone() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
        command.env_remove("FLOTILLA_MANAGER").env_remove("FLOTILLA_IDENTITY").env_remove("FLOTILLA_CONTEXT");
        command.env("XDG_CONFIG_HOME", home.path()).args(arguments).output().unwrap()
    };
    let add = |name: &str, manager: &str| {
        let added = run(&["context", "add", name, "--manager", manager, "--identity", "/nonexistent/admin"]);
        assert!(added.status.success(), "{}", stderr(&added));
    };
    add("prod", "https://192.0.2.1:4000,192.0.2.2");
    add("test", "192.0.2.3");
    let file = home.path().join("flotilla/contexts.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let listed = stdout(&run(&["context", "list", "--output", "json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], "prod");
    assert_eq!(listed[0]["managers"], serde_json::json!(["192.0.2.1:4000", "192.0.2.2:4000"]));
    assert_eq!((&listed[0]["used"], &listed[1]["used"]), (&true.into(), &false.into()));

    assert!(run(&["context", "use", "test"]).status.success());
    let asked = stderr(&run(&["region", "list"]));
    assert!(asked.contains("no identity in /nonexistent/admin"), "{asked}");
    let unknown = run(&["region", "list", "--context", "prd"]);
    assert_eq!(stderr(&unknown), "error: there is no context `prd`; there are prod, test\n");
    assert!(run(&["context", "remove", "test"]).status.success());
    assert!(!stdout(&run(&["context", "list"])).contains("test"));
}

#[test]
fn joining_puts_the_token_and_the_manager_where_the_daemon_looks() {
    use flotilla_proto::JoinTokenText;
    use flotilla_proto::wire::manager::JoinToken;

    let dir = tempfile::tempdir().unwrap();
    let (token_file, config) = (dir.path().join("token"), dir.path().join("peer.toml"));
    let token = |role: &str| {
        JoinTokenText::from(JoinToken {
            manager: "https://m.test:4000".into(),
            ca_der: b"ca".to_vec().into(),
            secret: "secret".into(),
            region: "eu".into(),
            role: role.into(),
        })
        .to_string()
    };
    let join = |daemon: &str, more: &[&str]| {
        let (token_file, config) = (token_file.to_str().unwrap(), config.to_str().unwrap());
        flotilla(&[&[daemon, "join", token_file, "--config", config], more].concat())
    };
    std::fs::write(&config, "# mine\nname = \"node-1\"\n\n[manager]\naddress = \"old:4000\" # moved\n")
        .unwrap();
    std::fs::write(&token_file, format!("join token 1f for the role peer:\n{}\n", token("peer"))).unwrap();
    let joined = join("peer", &["--manager", "m1.test,10.0.0.5:4100"]);
    assert!(joined.status.success(), "{}", stderr(&joined));
    assert!(stdout(&joined).contains("systemctl enable --now flotilla-peer"), "{}", stdout(&joined));

    let kept = dir.path().join("tokens/peer");
    assert_eq!(std::fs::read_to_string(&kept).unwrap().trim(), token("peer"));
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.starts_with("# mine\nname = \"node-1\"\n") && !text.contains("old:4000"), "{text}");
    assert!(text.contains("addresses = [\"m1.test:4000\", \"10.0.0.5:4100\"]"), "{text}");
    let checked = flotilla(&["peer", "--config", config.to_str().unwrap(), "--check"]);
    assert!(checked.status.success() && stdout(&checked).contains("m1.test:4000"), "{}", stderr(&checked));

    // Without --manager, the token says where.
    assert!(join("peer", &[]).status.success());
    assert!(std::fs::read_to_string(&config).unwrap().contains("addresses = [\"m.test:4000\"]"));
    let wrong = join("scheduler", &[]);
    assert!(stderr(&wrong).contains("this token is for a peer"), "{}", stderr(&wrong));
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused_at_the_check() {
    let dir = tempfile::tempdir().unwrap();
    for (daemon, text, expected) in [
        (
            "peer",
            "[transport]\nlisten = \"0.0.0.0:4006\"\nadvertise = \"[2001:db8::1]:4006\"",
            "has no IPv6 address",
        ),
        (
            "scheduler",
            "listen = \"[2001:db8::1]:4003\"\nadvertise = \"10.0.0.1:4003\"",
            "has no IPv4 address",
        ),
        ("peer", "[store]\nquota = 64", "peer.toml:2: store.quota = 64: no unit; expected a size"),
        ("peer", "[source]\nstall_timeout = 5", "source.stall_timeout = 5: no unit; expected a duration"),
        ("manager", "certificate_lifetime = \"1 fortnight\"", "expected a duration"),
        ("scheduler", "[zones.a]\nbandwidth = 50", "zones.a.bandwidth = 50: no unit; expected a size"),
        ("manager", "[log]\nlevel = \"verbose\"", "log.level = \"verbose\": `verbose` is no level"),
    ] {
        let file = dir.path().join(format!("{daemon}.toml"));
        std::fs::write(&file, text).unwrap();
        let output = flotilla(&[daemon, "--config", file.to_str().unwrap(), "--check"]);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(stderr(&output).contains(expected), "{text}: {}", stderr(&output));
    }
    let output = flotilla(&["peer", "--check"]);
    assert!(stdout(&output).contains("quota = \"50 GiB\" # 53687091200 bytes"), "{}", stdout(&output));
    assert!(stdout(&output).contains("stall_timeout = \"5s\" # 5 seconds"), "{}", stdout(&output));
}

#[test]
fn a_peers_status_is_printed_as_asked() {
    let status = r#"{"name":"peer-0","store":{"bytes":7}}"#;
    for (format, line) in [("table", "store.bytes"), ("json", r#"    "bytes": 7"#), ("yaml", "  bytes: 7")] {
        let (url, server) = answer_once("200 OK", status);
        let admin = url.trim_end_matches("/healthz");
        let output = flotilla(&["peer", "status", "--admin", admin, "--output", format]);
        assert!(server.join().unwrap().starts_with("GET /status "), "{format}");
        assert!(stdout(&output).contains(line), "{format}: {}", stdout(&output));
    }
}

#[test]
fn a_demo_that_makes_no_sense_says_so_before_anything_starts() {
    for (arguments, reason) in [
        (&["--size", "0"][..], "error: 0 bytes are too few for 4 layers of at least one byte\n"),
        (&["--size", "3 B"], "error: 3 bytes are too few for 4 layers of at least one byte\n"),
        (&["--layers", "257"], "257 is not in 1..=256"),
        (&["--peers", "0"], "0 is not in 1..=64"),
        (&["--image", "app"], "with the registry's host in front"),
        (&["--image", "reg.test/app", "--size", "1 MiB"], "cannot be used with"),
        (
            &["--image", "reg.test/app", "--registry", "reg.test=ftp://x"],
            "endpoint `ftp://x`: a URL here reads",
        ),
        (
            &["--image", "reg.test/app", "--registry", "reg.test=http://x,ca=/no/such/ca.pem"],
            "error: read /no/such/ca.pem: ",
        ),
    ] {
        let output = flotilla(&[&["demo"], arguments].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(stderr(&output).contains(reason), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn every_client_is_set_up_below_a_root_and_undone() {
    let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(data.path().join("ca")).unwrap();
    std::fs::write(data.path().join("ca/reg.test_5000.pem"), CERTIFICATE).unwrap();
    let daemon_json = root.path().join("etc/docker/daemon.json");
    std::fs::create_dir_all(daemon_json.parent().unwrap()).unwrap();
    std::fs::write(&daemon_json, "{\"debug\": true}").unwrap();
    for (client, more, file) in [
        ("docker", &["--daemon-json"][..], "etc/docker/certs.d/reg.test:5000/flotilla.crt"),
        ("containerd", &[], "etc/containerd/certs.d/reg.test:5000/hosts.toml"),
        ("podman", &[], "etc/containers/registries.conf.d/50-flotilla-reg.test_5000.conf"),
        ("crio", &["--door", "proxy"], "etc/systemd/system/crio.service.d/flotilla.conf"),
        ("buildkit", &[], "etc/buildkit/buildkitd.toml"),
    ] {
        let setup = |last: &[&str]| {
            let (root, data) = (root.path().to_str().unwrap(), data.path().to_str().unwrap());
            let common = ["client", "setup", client, "--registry", "reg.test:5000", "--output", "json"];
            flotilla(&[&common[..], &["--root", root, "--data-dir", data], more, last].concat())
        };
        let actions = |output: &Output| -> Vec<String> {
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let files = report["files"].as_array().unwrap();
            files.iter().map(|file| file["action"].as_str().unwrap().to_owned()).collect()
        };
        assert!(setup(&["--dry-run"]).status.success() && !root.path().join(file).exists(), "{client}");
        let written = setup(&[]);
        assert!(written.status.success(), "{client}: {}", stderr(&written));
        assert!(root.path().join(file).exists(), "{client}");
        assert!(actions(&setup(&[])).iter().all(|action| action == "unchanged"), "{client}");
        assert!(setup(&["--undo"]).status.success());
        assert!(!root.path().join(file).exists(), "{client}");
        assert_eq!(actions(&setup(&["--undo"])), [""; 0], "{client}");
    }
    assert_eq!(std::fs::read_to_string(&daemon_json).unwrap(), "{\"debug\": true}");
}

#[test]
fn a_setup_that_cannot_be_says_why() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    for (arguments, reason) in [
        (&["docker", "--registry", "reg.test"][..], "/var/lib/flotilla/peer/ca/reg.test.pem"),
        (&["docker", "--registry", "reg.test", "--door", "mirror"], "--door prefix: "),
        (&["podman", "--registry", "reg.test", "--door", "sni"], "These work:\n  --door mirror: "),
        (&["podman", "--registry", "reg.test", "--authfile", "/no/auth.json"], "there is no /no/auth.json"),
        (&["podman", "--registry", "reg.test", "--peer", "localhost:4001"], "at http://host:port"),
        (&["podman"], "--registry <HOST>"),
    ] {
        let output = flotilla(&[&["client", "setup", "--root", root], arguments].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(stderr(&output).contains(reason), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_verification_without_a_ready_peer_says_what_is_missing() {
    let (url, server) = answer_once(
        "503 Service Unavailable",
        r#"{"missing":{"scheduler":"the connection to the scheduler is lost"},"ready":false}"#,
    );
    let admin = url.trim_end_matches("/healthz");
    let output = flotilla(&["verify", "reg.test/app:v1", "--admin", admin]);
    assert!(server.join().unwrap().starts_with("GET /readyz "));
    assert_eq!(output.status.code(), Some(1));
    let reason = "error: the peer is not ready: scheduler: the connection to the scheduler is lost\n";
    assert_eq!(stderr(&output), reason);

    let output = flotilla(&["verify", "reg.test/app:v1", "--admin", admin]);
    assert!(stderr(&output).contains("does it run?"), "{}", stderr(&output));
    let output = flotilla(&["verify", "reg.test/app:v1", "--user", "robot"]);
    assert!(stderr(&output).contains("--password-stdin"), "{}", stderr(&output));
}

fn flotilla(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flotilla")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A server that answers one request; its thread gives what was asked.
fn answer_once(status: &'static str, body: &'static str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/healthz", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, server)
}

/// Any will do: nothing here opens TLS.
const CERTIFICATE: &str = include_str!("certificate.pem");
