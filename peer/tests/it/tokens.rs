//! Tokens through the doors: whoever speaks to a mirror or a prefix needs no way to the registry.

use flotilla_proto::Digest;
use http::Method;

use crate::client::{Answer, Client};
use crate::region::{Region, noise};
use crate::registry::{HOST, Registry};

const BASIC: &str = r#"Basic realm="registry.test""#;
const BEARER: &str = r#"Bearer realm="https://registry.test/token",service="its own name""#;
const PAIR: &str = "Basic dTpw";

/// The challenge's parameter.
fn parameter(answer: &Answer, name: &str) -> String {
    let challenge = answer.header("www-authenticate");
    let (_, rest) =
        challenge.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("{name} in {challenge:?}"));
    rest.split_once('"').unwrap().0.to_owned()
}

/// Asks where the challenge says, as a client does; the token as a credential.
async fn traded(client: &Client, challenged: &Answer, scope: &str) -> String {
    let realm = parameter(challenged, "realm");
    let path = realm
        .strip_prefix(&format!("http://{}", client.door))
        .unwrap_or_else(|| panic!("{realm} leads elsewhere"));
    let service = parameter(challenged, "service").replace(' ', "%20");
    let answer = client.get(&format!("{path}?account=u&scope={scope}&service={service}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    format!("Bearer {}", answer["token"].as_str().unwrap())
}

fn asked_for_token(registry: &Registry) -> Vec<String> {
    let log = registry.log();
    log.iter().filter(|asked| asked.path == "/token").map(|asked| asked.query.clone()).collect()
}

#[tokio::test]
async fn a_mirror_and_a_prefix_hand_out_the_registrys_own_tokens() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BEARER);
    region.registry.issue(PAIR, "good");
    region.registry.allow("Bearer good", "priv/app");
    let digest = Digest::of(&blob);
    for (path, blob_path, scope) in [
        (
            format!("/v2/priv/app/manifests/v1?ns={HOST}"),
            format!("/v2/priv/app/blobs/{digest}?ns={HOST}"),
            "repository:priv/app:pull".to_owned(),
        ),
        (
            format!("/v2/{HOST}/priv/app/manifests/v1"),
            format!("/v2/{HOST}/priv/app/blobs/{digest}"),
            format!("repository:{HOST}/priv/app:pull"),
        ),
    ] {
        for node in [&region.one, &region.seed] {
            let challenged = node.client.get(&path).await;
            assert_eq!(
                (challenged.status.as_u16(), challenged.header("flotilla-refused-by")),
                (401, "registry")
            );
            let token = traded(&node.client.with(PAIR), &challenged, &scope).await;
            assert_eq!(token, "Bearer good");
            let served = node.client.with(&token).get(&path).await;
            assert_eq!(served.status, 200);
            let served = node.client.with(&token).get(&blob_path).await;
            assert!(served.status == 200 && served.body == blob);
        }
    }
    for query in asked_for_token(&region.registry) {
        assert_eq!(query, "service=its%20own%20name&account=u&scope=repository%3Apriv%2Fapp%3Apull");
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
}

#[tokio::test]
async fn a_wrong_password_is_refused_in_the_token_services_own_words() {
    let region = Region::start().await;
    region.registry.protect(BEARER);
    region.registry.issue(PAIR, "good");
    let wrong = region.one.client.with("Basic d3Jvbmc6cHc=");
    let answer = wrong.get(&format!("/flotilla/token/{HOST}?scope=repository:priv/app:pull")).await;
    assert_eq!((answer.status.as_u16(), answer.error().1.as_str()), (401, "the registry's own words"));
}

#[tokio::test]
async fn with_several_registries_the_scope_says_which_one_is_meant() {
    let region = Region::start().await;
    let other = Registry::start().await;
    region.add_registry("other.test:5000", &other).await;
    let (blob, open) = (noise(1, 300_000), noise(2, 300_000));
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BEARER);
    region.registry.issue(PAIR, "good");
    region.registry.allow("Bearer good", "priv/app");
    other.push("app", "v1", &[&open]);
    let client = &region.one.client;
    let base = client.get("/v2/").await;
    assert_eq!((base.status.as_u16(), base.header("flotilla-refused-by")), (401, "peer"));

    let token = traded(&client.with(PAIR), &base, &format!("repository:{HOST}/priv/app:pull")).await;
    assert_eq!(token, "Bearer good");
    assert_eq!(client.with(&token).get(&format!("/v2/{HOST}/priv/app/manifests/v1")).await.status, 200);

    // The other issues no tokens: what is handed out is the credential in other words.
    let anyone = traded(client, &base, "repository:other.test:5000/app:pull").await;
    let manifest = "/v2/other.test:5000/app/manifests/v1";
    assert_eq!(client.with(&anyone).get(manifest).await.status, 200);
    other.protect(BASIC);
    other.allow(PAIR, "app");
    let path = format!("/v2/other.test:5000/app/blobs/{}", Digest::of(&open));
    assert_eq!(client.with(&anyone).get(manifest).await.status, 401, "the registry decides");
    let owner = traded(&client.with(PAIR), &base, "repository:other.test:5000/app:pull").await;
    assert_eq!(client.with(&owner).get(manifest).await.status, 200);
    assert_eq!(client.with(&owner).get(&path).await.body, open);

    let nobody = client.get("/flotilla/token?scope=repository:app:pull").await;
    assert_eq!((nobody.status.as_u16(), nobody.error().0.as_str()), (400, "UNSUPPORTED"));
}

#[tokio::test]
async fn a_client_makes_the_seed_dial_no_token_service_of_its_own() {
    let region = Region::start().await;
    let answer = region.one.client.get("/flotilla/token/evil.test?scope=repository:app:pull").await;
    assert_eq!((answer.status.as_u16(), answer.error().0.as_str()), (404, "NAME_UNKNOWN"));
    let post = region.one.client.ask(Method::POST, &format!("/flotilla/token/{HOST}"), &[]).await;
    assert_eq!(post.status, 405);
    assert!(region.registry.log().is_empty());
}
