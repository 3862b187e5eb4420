//! §2.2: tags, the catalog, referrers.

use serde_json::json;

use super::*;

#[test]
fn tags_come_in_pages() {
    let lab = Lab::start();
    lab.harbor.publish(&lab.image, "v2");
    lab.harbor.publish(&lab.image, "v3");
    let page = |query: &str| lab.ask_as_alice(Ask::get(format!("/v2/priv/app/tags/list{query}")));
    assert_eq!(page("").json(), json!({ "name": "priv/app", "tags": ["v1", "v2", "v3"] }));
    assert_eq!(page("").header("link"), None);
    let first = page("?n=2");
    assert_eq!(first.json()["tags"], json!(["v1", "v2"]));
    assert_eq!(first.header("link"), Some("</v2/priv/app/tags/list?last=v2&n=2>; rel=\"next\""));
    let last = page("?last=v2&n=2");
    assert_eq!((last.json()["tags"].clone(), last.header("link")), (json!(["v3"]), None));
}

#[test]
fn the_catalog_is_for_an_administrators_basic() {
    let lab = Lab::start();
    lab.harbor.add_admin("admin", "Harbor12345");
    let ask = || Ask::get("/v2/_catalog");
    let basic = "Basic realm=\"harbor\"";
    assert_eq!(lab.ask(ask()).challenge(), basic);
    assert_eq!(lab.ask_as_alice(ask()).challenge(), basic);
    let token = lab.harbor.token(Some(("admin", "Harbor12345")), "priv/app");
    assert_eq!(lab.ask(ask().bearer(&token)).challenge(), basic);
    let reply = lab.ask(ask().basic("admin", "Harbor12345"));
    assert_eq!(reply.json(), json!({ "repositories": ["priv/app", "pub/app"] }));
}

#[test]
fn referrers_are_an_index_even_if_there_are_none() {
    let lab = Lab::start();
    let reply = lab.ask_as_alice(Ask::get(format!("/v2/priv/app/referrers/{}", Digest::of(b"x"))));
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(OCI_INDEX)));
    assert_eq!(reply.json()["manifests"], json!([]));
    let reply = lab.ask_as_alice(Ask::get("/v2/priv/app/referrers/sha256:bad"));
    assert_eq!((reply.status, &*reply.code()), (400, "DIGEST_INVALID"));
}

#[test]
fn referrers_are_found_by_subject_and_type() {
    let lab = Lab::start();
    let subject = lab.image.manifest.digest();
    let publish = |artifact_type: &str| {
        let subject = json!({ "mediaType": OCI_MANIFEST, "size": 1, "digest": subject.to_string() });
        let artifact = json!({ "schemaVersion": 2, "artifactType": artifact_type, "subject": subject });
        lab.harbor.publish_manifest("priv/app", artifact_type, OCI_MANIFEST, artifact.to_string().as_bytes())
    };
    let signature = publish("signature");
    publish("sbom");
    let ask = |query| lab.ask_as_alice(Ask::get(format!("/v2/priv/app/referrers/{subject}{query}")));
    let all = ask("");
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!((all.header("x-total-count"), all.header("oci-filters-applied")), (Some("2"), None));
    let signatures = ask("?artifactType=signature");
    assert_eq!(signatures.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(signatures.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(signatures.json()["manifests"][0]["digest"], signature.to_string());
    assert_eq!(signatures.json()["manifests"][0]["artifactType"], "signature");
}
