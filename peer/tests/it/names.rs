//! Loopback is no password: a browser on this machine asks for any page what the page likes.

use http::Method;

use crate::client::{Client, Door};
use crate::region::{Region, blob_path, noise};
use crate::registry::HOST;

/// A region with one image, held by one node, that calls its doors so.
async fn region(names: &[&str]) -> (Region, Vec<String>) {
    let region = Region::start_with(|config| {
        config.door.sni_listen = Some("127.0.0.1:0".parse().unwrap());
        config.door.names = names.iter().map(|name| name.parse().unwrap()).collect();
        config.admin.names.clone_from(&config.door.names);
    })
    .await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let paths =
        vec!["/v2/app/manifests/v1".to_owned(), blob_path("app", &blob), "/v2/app/tags/list".to_owned()];
    for path in &paths[..2] {
        assert_eq!(region.one.client.mirror(path).await.status, 200);
    }
    (region, paths)
}

#[tokio::test]
async fn a_page_whose_name_leads_to_this_machine_reads_nothing_at_doors_and_admin() {
    let (region, paths) = region(&[]).await;
    let node = &region.one;
    let asked = region.registry.log().len();
    let rebound = [("host", "evil.test:4001")];
    let mut plain = vec!["/v2/".to_owned(), format!("/flotilla/token/{HOST}?scope=repository:app:pull")];
    for path in &paths {
        plain.extend([format!("{path}?ns={HOST}"), path.replacen("/v2/", &format!("/v2/{HOST}/"), 1)]);
    }
    for path in &plain {
        let answer = node.client.ask(Method::GET, path, &rebound).await;
        assert_eq!(answer.status, 403, "{path}");
        let (code, message) = answer.error();
        assert_eq!(code, "DENIED");
        assert!(message.contains("evil.test:4001") && message.contains("door.names"), "{message}");
    }
    let admin = Client { door: node.admin, credential: None };
    for page in ["/status", "/metrics", "/readyz", "/healthz"] {
        assert_eq!(admin.ask(Method::GET, page, &rebound).await.status, 403, "{page}");
    }
    assert_eq!(region.registry.log().len(), asked, "the registry is not asked for a stranger");
}

#[tokio::test]
async fn a_page_of_another_site_reads_nothing_at_any_door() {
    let (region, paths) = region(&[]).await;
    let node = &region.one;
    let sni = || Door::Sni(node.sni.unwrap(), node.bundle());
    for door in [Door::Mirror, Door::Prefix, Door::Proxy(node.bundle()), sni()] {
        for path in &paths {
            for origin in ["http://evil.test", "https://evil.test", "null"] {
                let answer = node.client.at(&door, Method::GET, path, &[("origin", origin)]).await;
                assert_eq!(
                    (answer.status.as_u16(), &answer.error().0[..]),
                    (403, "DENIED"),
                    "{door:?} {path}"
                );
            }
        }
    }
    // A registry's own pages, seen through a door that plays it.
    let page = format!("https://{HOST}");
    for door in [Door::Proxy(node.bundle()), sni()] {
        assert_eq!(node.client.at(&door, Method::GET, &paths[1], &[("origin", &page)]).await.status, 200);
    }
    let absolute = format!("http://{HOST}{}", paths[0]);
    assert_eq!(node.client.ask(Method::GET, &absolute, &[("origin", "http://evil.test")]).await.status, 403);
}

#[tokio::test]
async fn a_node_answers_to_its_addresses_to_localhost_and_to_what_its_operator_calls_it() {
    let (region, paths) = region(&["peer.internal", "*.pods.test"]).await;
    let node = &region.one;
    let machine = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let admin = Client { door: node.admin, credential: None };
    let address = node.client.door.to_string();
    for host in [&address, "localhost:4001", "[::1]", "peer.internal:4001", "10-0-0-7.pods.test", &machine] {
        let path = format!("{}?ns={HOST}", paths[1]);
        assert_eq!(node.client.ask(Method::GET, &path, &[("host", host)]).await.status, 200, "{host}");
        for page in ["/metrics", "/readyz", "/status"] {
            assert_eq!(admin.ask(Method::GET, page, &[("host", host)]).await.status, 200, "{host} {page}");
        }
    }
}
