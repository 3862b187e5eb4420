//! A real registry: Debian's `docker-registry`, with passwords. Skipped, saying so, where it is not installed.

use std::path::Path;
use std::process::Stdio;

use flotilla_proto::Digest;
use http::header;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{Bench, blob, credential, credentials, host, quick_config};
use crate::source::body::{BodyStream, empty};
use crate::source::{Purpose, ReadError, Robot, SourceConfig, Verdict};

/// `seed:seed-test-password`
const BASIC: &str = "Basic c2VlZDpzZWVkLXRlc3QtcGFzc3dvcmQ=";
const PASSWORD: &str = "seed-test-password";
const HTPASSWD: &str = "seed:$2y$05$abcdefghijklmnopqrstuugq5V4/RKbGARvgwxbS0Au9Y5s7wBVeW\n";

/// Dies with its handle.
struct DebianRegistry {
    url: String,
    _process: Child,
}

impl DebianRegistry {
    /// `None` if there is none on PATH.
    async fn start(dir: &Path) -> Option<Self> {
        let config = dir.join("config.yml");
        let htpasswd = dir.join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
             http: {{addr: '127.0.0.1:0'}}\nauth:\n  htpasswd: {{realm: test, path: {}}}\n",
            dir.join("data").display(),
            htpasswd.display(),
        );
        std::fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("it should say where it listens");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ']).next().unwrap().to_owned();
            }
        };
        // Its log must be read, or it stops when the pipe is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { url: format!("http://{address}"), _process: process })
    }
}

#[tokio::test]
async fn a_real_registry_takes_a_push_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = DebianRegistry::start(dir.path()).await else {
        println!("skipped: no docker-registry on PATH");
        return;
    };
    let content = blob(3_000_000);
    let bench = Bench::new(std::slice::from_ref(&registry.url));
    push(&bench, &content).await;

    let list = credentials(&["", "Basic d3Jvbmc6d3Jvbmc=", BASIC]);
    let summary = bench.read(&content, &list).await.assert_whole(&content).clone();
    assert_eq!(summary.source_bytes, content.len() as u64);
    for refused in ["", "Basic d3Jvbmc6d3Jvbmc="] {
        let Some(Verdict::Refused(answer)) = list.verdict(&credential(refused)).await else { panic!() };
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Basic realm=\"test\"");
        assert!(answer.body.starts_with(b"{\"errors\""));
    }

    let part = bench.read_pieces(&content, &credentials(&[BASIC]), |piece| piece % 4 == 1).await;
    part.assert_right(&content);
    assert_eq!(part.result.unwrap().source_bytes, part.pieces.len() as u64 * 131_072);

    let missing = bench.read(&blob(77), &credentials(&[BASIC])).await;
    let Err(ReadError::Refused { answer, .. }) = &missing.result else { panic!("{missing:?}") };
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_real_registry_serves_the_robot_where_the_client_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = DebianRegistry::start(dir.path()).await else {
        println!("skipped: no docker-registry on PATH");
        return;
    };
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, PASSWORD).unwrap();
    let robots = [(host(), Robot { user: "seed".into(), password_file })].into();
    let bench =
        Bench::with_config(std::slice::from_ref(&registry.url), SourceConfig { robots, ..quick_config() });
    let content = blob(100_000);
    push(&bench, &content).await;
    let summary = bench.read(&content, &credentials(&[""])).await.assert_whole(&content).clone();
    assert_eq!(summary.read_by.unwrap().client, None);
}

/// Pushes as docker does: an upload is opened, filled and closed under the digest.
async fn push(bench: &Bench, content: &bytes::Bytes) {
    let open = Request::post("/v2/app/web/blobs/uploads/");
    let location = send(bench, open, empty(), StatusCode::ACCEPTED).await;
    let path = location.parse::<http::Uri>().unwrap().path_and_query().unwrap().to_string();
    let body = Full::new(content.clone()).map_err(|never| match never {}).boxed_unsync();
    let location = send(bench, Request::patch(path), body, StatusCode::ACCEPTED).await;
    let path = location.parse::<http::Uri>().unwrap().path_and_query().unwrap().to_string();
    let close = Request::put(format!("{path}&digest={}", Digest::of(content)));
    send(bench, close, empty(), StatusCode::CREATED).await;
}

async fn send(
    bench: &Bench,
    request: http::request::Builder,
    body: BodyStream,
    expected: StatusCode,
) -> String {
    let request = request.header(header::AUTHORIZATION, BASIC).body(body).unwrap();
    let answer = bench.source.forward(&host(), request, Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), expected);
    answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
}
