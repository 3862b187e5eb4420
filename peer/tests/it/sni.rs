//! The door `sni`, and requests that come back to where they began.

use http::Method;

use crate::client::roots_of;
use crate::region::{Region, blob_path, noise};
use crate::registry::HOST;

#[tokio::test]
async fn a_client_whose_resolver_is_told_so_finds_the_registry_at_its_own_node() {
    let region =
        Region::start_with(|config| config.door.sni_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    for node in [&region.one, &region.two] {
        let roots = roots_of(&node.bundle());
        let get = |path: String| node.client.by_sni(node.sni.unwrap(), HOST, &roots, Method::GET, path);
        assert_eq!(get("/v2/app/manifests/v1".to_owned()).await.unwrap().status, 200);
        assert_eq!(get(blob_path("app", &blob)).await.unwrap().body, blob);
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
    // Everything of a registry is there: what a mirror refuses passes.
    let roots = roots_of(&region.one.bundle());
    let sni = region.one.sni.unwrap();
    let push = "/v2/app/blobs/uploads/".to_owned();
    let answer = region.one.client.by_sni(sni, HOST, &roots, Method::POST, push).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("flotilla-refused-by")), (404, "registry"));
    // A name that is not configured gets no certificate at all.
    let stranger = region.one.client.by_sni(sni, "other.test", &roots, Method::GET, "/v2/".to_owned()).await;
    assert!(stranger.is_err());
}

#[tokio::test]
async fn a_seed_that_is_led_back_to_a_door_is_told_so() {
    let region = Region::start().await;
    let path = format!("/v2/app/manifests/v1?ns={HOST}");
    assert_eq!(region.one.client.ask(Method::GET, &path, &[]).await.status, 404);
    let own = region.registry.log().pop().unwrap().via;
    for via in [own.clone(), format!("1.0 other, {own}")] {
        let answer = region.one.client.ask(Method::GET, &path, &[("via", &via)]).await;
        assert_eq!(answer.status, 508);
        assert!(answer.error().1.contains("--address"), "{answer:?}");
    }
    for via in ["1.1 squid", "1.1 flotilla-000000000000"] {
        let answer = region.one.client.ask(Method::GET, &path, &[("via", via)]).await;
        assert_eq!(answer.status, 404, "{via} may have this door for its registry");
    }
}
