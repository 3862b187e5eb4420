//! Where a registry leads a seed: not to the seed itself, not nearer than it is, and not with what is the client's.

use bytes::Bytes;
use flotilla_daemon::settings::Endpoint;
use flotilla_proto::Digest;
use http::{Method, Request, StatusCode, header};

use super::fake::{FakeRegistry, Seen, proxy, serve, status, text, with};
use super::{Bench, HOST, anonymous, blob, endpoint, host, quick_config};
use crate::source::{BodyStream, Purpose, SourceConfig, body};

/// How a registry leads somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Redirect,
    /// A redirect of a stranger that it leads to.
    SecondRedirect,
    Realm,
    /// The realm of a stranger that it leads to.
    SecondRealm,
}

const WAYS: [Way; 4] = [Way::Redirect, Way::SecondRedirect, Way::Realm, Way::SecondRealm];

/// A registry that leads to `target`, and a stranger on its way.
async fn leading(way: Way, target: &str) -> (FakeRegistry, FakeRegistry) {
    let redirect = |to: &str| {
        let to = to.to_owned();
        move |_: &Seen| with(status(307), header::LOCATION, &to)
    };
    let challenge = |realm: &str| {
        let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
        move |_: &Seen| with(status(401), header::WWW_AUTHENTICATE, &challenge)
    };
    let stranger = match way {
        Way::Redirect | Way::SecondRedirect => FakeRegistry::start(redirect(target)).await,
        Way::Realm | Way::SecondRealm => FakeRegistry::start(challenge(target)).await,
    };
    let registry = match way {
        Way::Redirect => FakeRegistry::start(redirect(target)).await,
        Way::Realm => FakeRegistry::start(challenge(target)).await,
        Way::SecondRedirect | Way::SecondRealm => FakeRegistry::start(redirect(&stranger.url())).await,
    };
    (registry, stranger)
}

/// Everything that makes a seed go where a registry leads; what each says.
async fn led(bench: &Bench, content: &Bytes) -> Vec<(Option<Purpose>, String)> {
    let mut said = vec![(None, bench.read(content, &anonymous()).await.error())];
    let blob = format!("/v2/app/web/blobs/{}", Digest::of(content));
    for (method, path, purpose) in [
        (Method::GET, "/v2/app/web/manifests/v1", Purpose::Pass),
        (Method::HEAD, &blob, Purpose::Pass),
        (Method::GET, &blob, Purpose::Probe),
        (Method::GET, "/flotilla/token?scope=repository:app/web:pull", Purpose::Token),
    ] {
        let request = Request::builder().method(method).uri(path).body(body::empty()).unwrap();
        let answer = bench.source.forward(&host(), request, purpose).await;
        let answer = answer.map_or_else(|error| error.to_string(), |answer| answer.status().to_string());
        said.push((Some(purpose), answer));
    }
    said
}

#[tokio::test]
async fn no_registry_leads_a_seed_to_itself_or_to_where_no_storage_can_be() {
    let content = blob(70_000);
    let own = FakeRegistry::start(|_| text(200, "its own /status")).await;
    let port = own.address.port();
    let own_url = format!("http://{}/status", own.address);
    let elsewhere = [
        format!("http://0.0.0.0:{port}/status"),
        format!("http://2130706433:{port}/status"),
        format!("http://127.1:{port}/status"),
        format!("http://0x7f.0.0.1:{port}/status"),
        format!("http://[::ffff:0.0.0.0]:{port}/status"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/latest/meta-data/".to_owned(),
        "http://100.100.100.200/latest/meta-data/".to_owned(),
    ];
    for way in WAYS {
        for target in std::iter::once(&own_url).chain(&elsewhere) {
            let (registry, _stranger) = leading(way, target).await;
            let bench = Bench::beside(vec![own.address], vec![endpoint(&registry.url())], quick_config());
            for (purpose, said) in led(&bench, &content).await {
                // The registry's own refusal is told where there was nothing to follow.
                let is_followed = purpose.is_none() || (purpose, way) == (Some(Purpose::Token), Way::Realm);
                let is_told = !is_followed && (said.starts_with("401") || said.contains("answered 307"));
                let is_refused = said.contains("leads to ") && said.contains(HOST);
                assert!(is_refused || is_told, "{way:?} {target} {purpose:?}: {said}");
            }
            assert!(
                bench.read(&content, &anonymous()).await.error().contains("leads to "),
                "{way:?} {target}"
            );
            assert!(bench.counter("flotilla_peer_source_errors_total{reason=\"address\"}") > 0);
        }
    }
    assert!(own.seen().is_empty(), "{:?}", own.seen());
}

#[tokio::test]
async fn a_public_registry_leads_to_nothing_near_unless_an_operator_lists_it() {
    let content = blob(70_000);
    for near in ["10.0.0.5:9000", "127.0.0.1:9000", "localhost:9000", "[fd00::5]:9000", "192.168.7.7:9000"] {
        let registry = FakeRegistry::start({
            let (content, to) = (content.clone(), format!("http://{near}/stored"));
            move |seen| match &seen.path[..] {
                "/stored" => serve(&content, seen),
                _ => with(status(307), header::LOCATION, &to),
            }
        })
        .await;
        let (proxy, mut asked) = proxy(Some(registry.address)).await;
        let bench = |may_lead_to: &[&str]| {
            let may_lead_to = may_lead_to.iter().map(|text| text.parse().unwrap()).collect();
            let public = Endpoint { proxy: Some(proxy.parse().unwrap()), ..endpoint("http://203.0.113.7") };
            Bench::with_endpoints(vec![public], SourceConfig { may_lead_to, ..quick_config() })
        };
        let error = bench(&[]).read(&content, &anonymous()).await.error();
        for part in ["leads to ", HOST, "http://203.0.113.7", near, "source.may_lead_to"] {
            // A name is told with what it means.
            assert!(error.contains(part) || part.starts_with("localhost"), "{part} is not in {error}");
        }
        let mut places = || std::iter::from_fn(|| asked.try_recv().ok()).collect::<Vec<String>>();
        assert!(places().iter().all(|place| place == "203.0.113.7:80"), "{near}");
        bench(&[near]).read(&content, &anonymous()).await.assert_whole(&content);
        assert!(places().iter().any(|place| place == near), "{near}");
    }
}

#[tokio::test]
async fn a_token_service_elsewhere_is_told_a_password_and_the_wish_and_nothing_more() {
    let service = FakeRegistry::start(|_| text(200, r#"{"token":"t"}"#)).await;
    let challenge = format!(r#"Bearer realm="{}/token",service="s""#, service.url());
    let registry =
        FakeRegistry::start(move |_| with(status(401), header::WWW_AUTHENTICATE, &challenge)).await;
    let bench = Bench::new(&[registry.url()]);
    let wish = "scope=repository:app/web:pull&account=me&access_token=secret&api_key=secret";
    let request = Request::get(format!("/flotilla/token?{wish}"))
        .header(header::AUTHORIZATION, "Basic dTpw")
        .header(header::COOKIE, "sid=secret")
        .header("x-api-key", "secret")
        .header("x-forwarded-for", "10.1.1.1")
        .header(header::USER_AGENT, "docker/28")
        .body(body::empty())
        .unwrap();
    let answer: http::Response<BodyStream> =
        bench.source.forward(&host(), request, Purpose::Token).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let seen = service.seen().pop().unwrap();
    assert_eq!(seen.path, "/token?service=s&scope=repository:app/web:pull&account=me");
    assert_eq!((seen.authorization(), seen.header(header::USER_AGENT)), ("Basic dTpw", "docker/28"));
    let shown = format!("{:?}", seen.headers);
    assert!(!shown.contains("secret") && !shown.contains("10.1.1.1"), "{shown}");
}
