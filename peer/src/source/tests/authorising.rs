//! Tokens, redirects, and whose credential a blob is read with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header;
use http::{Response, StatusCode};

use super::fake::{
    Ending, FakeRegistry, Reply, Seen, chunked, ending_after, plain, serve, status, text, with,
};
use super::{Bench, HOST, anonymous, blob, credential, credentials, quick_config};
use crate::source::body::BodyStream;
use crate::source::{Credentials, ReadCredential, ReadError, Robot, SourceConfig, Verdict};

const PIECE: usize = 128 << 10;

/// `user:pass`
const BASIC: &str = "Basic dXNlcjpwYXNz";

/// A registry that takes the token `t1` only, given by its own token service to whoever `may` have it.
fn token_registry(
    content: &Bytes,
    may: fn(&str) -> bool,
) -> impl Fn(&Seen) -> Response<BodyStream> + Send + Sync + 'static {
    let content = content.clone();
    move |seen| match (seen.path.starts_with("/service/token"), seen.authorization()) {
        (true, credential) if may(credential) => text(200, r#"{"token":"t1","expires_in":300}"#),
        (true, _) => status(401),
        (false, "Bearer t1") => serve(&content, seen),
        (false, _) => challenge(seen),
    }
}

/// As Harbor does: the realm is built from the request's own `Host`.
fn challenge(seen: &Seen) -> Response<BodyStream> {
    let host = seen.header(header::HOST);
    let value = format!(r#"Bearer realm="https://{host}/service/token",service="harbor-registry""#);
    with(text(401, "log in"), header::WWW_AUTHENTICATE, &value)
}

fn token_requests(registry: &FakeRegistry) -> Vec<Seen> {
    registry.seen().into_iter().filter(|seen| seen.path.starts_with("/service/token")).collect()
}

#[tokio::test]
async fn an_anonymous_client_gets_a_token_and_the_next_reading_uses_it_again() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start(token_registry(&content, str::is_empty)).await;
    let bench = Bench::new(&[registry.url()]);
    for _ in 0..2 {
        bench.read(&content, &anonymous()).await.assert_whole(&content);
    }
    let asked = token_requests(&registry);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/service/token?service=harbor-registry&scope=repository:app/web:pull");
    assert_eq!(asked[0].header(header::HOST), HOST, "reached at the endpoint under its public name");
    assert_eq!(bench.counter("flotilla_peer_source_requests_total{kind=\"token\"}"), 1);
    assert_eq!(bench.counter("flotilla_peer_source_requests_total{kind=\"blob\"}"), 3);
}

#[tokio::test]
async fn a_password_is_traded_for_a_token_where_the_registry_wants_one() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start(token_registry(&content, |credential| credential == BASIC)).await;
    let bench = Bench::new(&[registry.url()]);
    bench.read(&content, &credentials(&[BASIC])).await.assert_whole(&content);
    let used: Vec<String> = registry.seen().iter().map(|seen| seen.authorization().to_owned()).collect();
    assert_eq!(used, [BASIC, BASIC, "Bearer t1"]);
}

#[tokio::test]
async fn one_clients_token_is_not_anothers() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start(token_registry(&content, |credential| credential == BASIC)).await;
    let bench = Bench::new(&[registry.url()]);
    bench.read(&content, &credentials(&[BASIC])).await.assert_whole(&content);
    let outcome = bench.read(&content, &anonymous()).await;
    let Err(ReadError::Refused { answer, .. }) = outcome.result else { panic!("{outcome:?}") };
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::UNAUTHORIZED, &b"log in"[..]));
    assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer realm"));
}

#[tokio::test]
async fn a_password_does_not_go_to_a_stranger_in_clear() {
    let stranger = FakeRegistry::start(|_| text(200, r#"{"token":"t1"}"#)).await;
    let content = blob(PIECE);
    let registry = FakeRegistry::start({
        let realm = format!("Bearer realm=\"http://localhost:{}/token\"", stranger.address.port());
        let content = content.clone();
        move |seen| match seen.authorization() {
            "Bearer t1" => serve(&content, seen),
            _ => with(status(401), header::WWW_AUTHENTICATE, &realm),
        }
    })
    .await;
    Bench::new(&[registry.url()]).read(&content, &credentials(&[BASIC])).await.assert_whole(&content);
    assert_eq!(stranger.seen()[0].authorization(), "");
}

#[tokio::test]
async fn a_clients_own_token_is_used_as_it_is() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start(token_registry(&content, |_| true)).await;
    let bench = Bench::new(&[registry.url()]);
    bench.read(&content, &credentials(&["Bearer t1"])).await.assert_whole(&content);
    let outcome = bench.read(&content, &credentials(&["Bearer stale"])).await;
    assert!(matches!(outcome.result, Err(ReadError::Refused { .. })));
    assert!(token_requests(&registry).is_empty());
}

#[tokio::test]
async fn a_token_that_dies_in_the_middle_of_a_blob_is_refreshed() {
    let content = blob(4 * PIECE);
    let issued = Arc::new(AtomicUsize::new(0));
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| {
            if seen.path.starts_with("/service/token") {
                let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
                return text(200, &format!(r#"{{"token":"t{number}","expires_in":300}}"#));
            }
            match (seen.authorization(), seen.range()) {
                ("Bearer t1", "") => ending_after(PIECE, Ending::Stall, plain(&content), &content),
                // What Harbor says to a stale token names no token service.
                ("Bearer t1", _) => with(status(401), header::WWW_AUTHENTICATE, "Basic realm=\"harbor\""),
                ("Bearer t2", _) => serve(&content, seen),
                _ => challenge(seen),
            }
        }
    })
    .await;
    let summary =
        Bench::new(&[registry.url()]).read(&content, &anonymous()).await.assert_whole(&content).clone();
    assert_eq!(summary.source_bytes, content.len() as u64);
    assert_eq!(token_requests(&registry).len(), 2);
}

#[tokio::test]
async fn a_token_that_lives_too_short_to_keep_still_reads_once() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match (seen.path.starts_with("/service/token"), seen.authorization()) {
            (true, _) => text(200, r#"{"access_token":"t1","expires_in":1}"#),
            (false, "Bearer t1") => serve(&content, seen),
            (false, _) => challenge(seen),
        }
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    for readings in 1..=2 {
        bench.read(&content, &anonymous()).await.assert_whole(&content);
        assert_eq!(token_requests(&registry).len(), readings);
    }
}

#[tokio::test]
async fn a_refused_credential_is_told_so_and_the_next_one_reads() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.authorization() {
            "Bearer right" => serve(&content, seen),
            "Bearer wrong" => text(403, "not yours"),
            _ => text(404, "no such blob here"),
        }
    })
    .await;
    let list = credentials(&["Bearer other", "Bearer wrong", "Bearer right", "Bearer unused"]);
    let summary = Bench::new(&[registry.url()]).read(&content, &list).await.assert_whole(&content).clone();
    assert_eq!(summary.read_by.unwrap().client, Some(credential("Bearer right").authorization.hash()));
    for (header, expected) in [("Bearer other", 404), ("Bearer wrong", 403)] {
        let Some(Verdict::Refused(answer)) = list.verdict(&credential(header)).await else {
            panic!("{header}")
        };
        assert_eq!(answer.status, expected);
    }
    assert!(matches!(list.verdict(&credential("Bearer right")).await, Some(Verdict::Accepted)));
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test]
async fn a_credential_that_comes_while_reading_saves_it() {
    let content = blob(3 * PIECE);
    let list = credentials(&["Bearer first"]);
    let registry = FakeRegistry::start({
        let (content, list) = (content.clone(), list.clone());
        move |seen| match (seen.authorization(), seen.index) {
            ("Bearer first", 0) => {
                list.offer(credential("Bearer second"));
                ending_after(PIECE + 1, Ending::Stall, plain(&content), &content)
            }
            ("Bearer second", _) => serve(&content, seen),
            _ => status(401),
        }
    })
    .await;
    Bench::new(&[registry.url()]).read(&content, &list).await.assert_whole(&content);
}

#[tokio::test]
async fn a_credential_for_a_registry_that_is_not_configured_is_passed_over() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let list = Credentials::new();
    list.offer(ReadCredential { upstream: "elsewhere.test".parse().unwrap(), ..credential("Bearer a") });
    list.offer(credential("Bearer b"));
    Bench::new(&[registry.url()]).read(&content, &list).await.assert_whole(&content);
    assert_eq!(registry.seen()[0].authorization(), "Bearer b");
}

#[tokio::test]
async fn a_refusal_whose_body_never_comes_is_still_a_refusal() {
    let words = Bytes::from_static(b"denied");
    let registry = FakeRegistry::start(move |_| {
        let mut answer = chunked(&words, 3, Ending::Stall);
        *answer.status_mut() = StatusCode::FORBIDDEN;
        answer
    })
    .await;
    let outcome = Bench::new(&[registry.url()]).read(&blob(1), &anonymous()).await;
    assert!(matches!(outcome.result, Err(ReadError::Refused { .. })), "{outcome:?}");
}

#[tokio::test]
async fn no_credential_left_is_the_registrys_own_refusal_with_a_bounded_body() {
    let registry = FakeRegistry::start(|_| {
        let answer = with(text(404, &"x".repeat(100 << 10)), header::CONTENT_TYPE, "application/json");
        with(answer, header::CONNECTION, "close")
    })
    .await;
    let outcome = Bench::new(&[registry.url()]).read(&blob(PIECE), &anonymous()).await;
    assert_eq!(outcome.error(), "registry.test refuses to serve app/web: 404 Not Found");
    let Err(ReadError::Refused { answer, .. }) = outcome.result else { unreachable!() };
    assert_eq!(answer.body.len(), 64 << 10);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert!(!answer.headers.contains_key(header::CONNECTION));
    assert!(!answer.headers.contains_key(header::CONTENT_LENGTH));
}

#[tokio::test]
async fn the_robot_reads_last_and_authorises_no_client() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| if seen.authorization() == BASIC { serve(&content, seen) } else { status(403) }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "pass\n").unwrap();
    let robots = [(super::host(), Robot { user: "user".into(), password_file })].into();
    let bench = Bench::with_config(&[registry.url()], SourceConfig { robots, ..quick_config() });
    let list = credentials(&["Bearer wrong"]);
    let summary = bench.read(&content, &list).await.assert_whole(&content).clone();
    assert_eq!(summary.read_by.unwrap().client, None);
    assert!(matches!(list.verdict(&credential("Bearer wrong")).await, Some(Verdict::Refused(_))));
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn the_clients_refusal_is_told_even_when_the_robot_was_refused_after_it() {
    let registry =
        FakeRegistry::start(|seen| status(if seen.authorization() == "Bearer wrong" { 403 } else { 401 }))
            .await;
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "pass").unwrap();
    let robots = [(super::host(), Robot { user: "user".into(), password_file })].into();
    let bench = Bench::with_config(&[registry.url()], SourceConfig { robots, ..quick_config() });
    let outcome = bench.read(&blob(1), &credentials(&["Bearer wrong"])).await;
    assert!(outcome.error().contains("403"), "{}", outcome.error());
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn a_redirect_to_storage_is_followed_without_the_credential() {
    let content = blob(3 * PIECE);
    let storage = FakeRegistry::start({
        let content = content.clone();
        move |seen| match (seen.authorization(), seen.index) {
            ("", 0) => ending_after(PIECE, Ending::Stall, plain(&content), &content),
            ("", _) => serve(&content, seen),
            _ => text(400, "either Signature or Authorization"),
        }
    })
    .await;
    for code in [301, 302, 303, 307, 308] {
        let registry = FakeRegistry::start({
            let location = format!("{}/bucket/blob?sig=1", storage.url());
            move |seen: &Seen| match seen.authorization() {
                "Bearer t" => with(status(code), header::LOCATION, &location),
                _ => status(401),
            }
        })
        .await;
        let bench = Bench::new(&[registry.url()]);
        bench.read(&content, &credentials(&["Bearer t"])).await.assert_whole(&content);
    }
    let seen = storage.seen();
    assert!(seen.iter().all(|seen| seen.path == "/bucket/blob?sig=1"));
    assert_eq!(seen[0].header(header::HOST), storage.address.to_string());
    assert_eq!(
        seen[1].range(),
        format!("bytes={PIECE}-{}", 3 * PIECE - 1),
        "a resumption asks the registry again"
    );
}

#[tokio::test]
async fn a_redirect_within_the_registry_keeps_the_credential() {
    let content = blob(PIECE);
    for location in ["/moved", "https://registry.test/moved"] {
        let registry = FakeRegistry::start({
            let content = content.clone();
            move |seen| match (seen.path.as_str(), seen.authorization()) {
                ("/moved", "Bearer t") => serve(&content, seen),
                ("/moved", _) => status(401),
                _ => with(status(301), header::LOCATION, location),
            }
        })
        .await;
        Bench::new(&[registry.url()])
            .read(&content, &credentials(&["Bearer t"]))
            .await
            .assert_whole(&content);
    }
}

#[tokio::test]
async fn a_stranger_that_leads_back_gets_no_credential_for_it() {
    let content = blob(PIECE);
    let stranger =
        FakeRegistry::start(|_| with(status(302), header::LOCATION, "https://registry.test/elsewhere")).await;
    let registry = FakeRegistry::start({
        let (content, location) = (content.clone(), stranger.url());
        move |seen| match seen.path.as_str() {
            "/elsewhere" => serve(&content, seen),
            _ => with(status(302), header::LOCATION, &location),
        }
    })
    .await;
    Bench::new(&[registry.url()]).read(&content, &credentials(&["Bearer t"])).await.assert_whole(&content);
    assert_eq!(registry.seen()[1].authorization(), "");
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let registry = FakeRegistry::start(|_| with(status(307), header::LOCATION, "/again")).await;
    let outcome = Bench::new(&[registry.url()]).read(&blob(1), &anonymous()).await;
    assert!(outcome.error().contains("redirects more than 5 times"), "{}", outcome.error());
    assert_eq!(registry.seen().len(), 6);
}

#[tokio::test]
async fn a_strangers_refusal_is_no_verdict_on_the_credential() {
    let storage = FakeRegistry::start(|_| text(403, "signature expired")).await;
    let registry = FakeRegistry::start({
        let location = storage.url();
        move |_| with(status(307), header::LOCATION, &location)
    })
    .await;
    let outcome = Bench::new(&[registry.url()]).read(&blob(1), &anonymous()).await;
    assert!(matches!(outcome.result, Err(ReadError::Endpoint { .. })), "{outcome:?}");
    assert!(outcome.error().contains("403"));
}

#[tokio::test]
async fn a_signature_that_has_expired_is_asked_for_again() {
    let content = blob(70_000);
    let storage = FakeRegistry::start({
        let content = content.clone();
        move |seen| if seen.path == "/signed/0" { status(403) } else { serve(&content, seen) }
    })
    .await;
    let (location, asked) = (storage.url(), AtomicUsize::new(0));
    let registry = FakeRegistry::start(move |_| {
        let signature = asked.fetch_add(1, Ordering::Relaxed);
        with(status(307), header::LOCATION, &format!("{location}/signed/{signature}"))
    })
    .await;
    Bench::new(&[registry.url()]).read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn a_token_service_that_hangs_or_talks_nonsense_is_an_error_in_time() {
    for answer in [|| Reply::Hang, || Reply::Answer(text(200, "<html>"))] {
        let registry = FakeRegistry::start(move |seen| {
            if seen.path.starts_with("/service/token") { answer() } else { challenge(seen).into() }
        })
        .await;
        let config = SourceConfig { header_timeout: std::time::Duration::from_millis(200), ..quick_config() };
        let outcome = Bench::with_config(&[registry.url()], config).read(&blob(1), &anonymous()).await;
        assert!(matches!(outcome.result, Err(ReadError::Endpoint { .. })), "{outcome:?}");
    }
}
