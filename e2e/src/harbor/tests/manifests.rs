//! §2.2 and §2.7: manifests.

use super::*;

#[test]
fn a_manifest_comes_by_tag_and_digest_with_its_names() {
    let lab = Lab::start();
    let digest = lab.image.manifest.digest();
    for reference in ["v1".to_owned(), digest.to_string()] {
        let get = lab.ask_as_alice(manifest("priv/app", &reference));
        assert_eq!((get.status, &get.body[..]), (200, lab.image.manifest.content()));
        let head = lab.ask_as_alice(manifest("priv/app", &reference).head());
        assert_eq!((head.status, head.body.len()), (200, 0));
        for reply in [get, head] {
            assert_eq!(reply.header("docker-content-digest"), Some(&*digest.to_string()));
            assert_eq!(reply.header("etag"), Some(&*format!("\"{digest}\"")));
            assert_eq!(reply.header("content-type"), Some(OCI_MANIFEST));
            let len = lab.image.manifest.size().to_string();
            assert_eq!(reply.header("content-length"), Some(&*len));
        }
    }
}

#[test]
fn one_entity_tag_is_understood_quoted_or_bare() {
    let lab = Lab::start();
    let digest = lab.image.manifest.digest();
    let ask = |tag: &str| lab.ask_as_alice(manifest("priv/app", "v1").header("if-none-match", tag));
    for tag in [digest.to_string(), format!("\"{digest}\"")] {
        let reply = ask(&tag);
        assert_eq!((reply.status, reply.body.len()), (304, 0));
        assert_eq!((reply.header("etag"), reply.header("docker-content-digest")), (None, None));
    }
    assert_eq!(lab.harbor.pulls("priv/app"), 0);
    for tag in ["*".to_owned(), format!("W/\"{digest}\""), format!("\"{digest}\", \"x\"")] {
        assert_eq!(ask(&tag).status, 200, "{tag}");
    }
    assert_eq!(lab.harbor.pulls("priv/app"), 3);
}

#[test]
fn a_policy_keeps_manifests_back_before_all_else_and_blobs_never() {
    let lab = Lab::start();
    lab.harbor.set_policy("priv", Some("current image with 3 vulnerabilities cannot be pulled"));
    let digest = lab.image.manifest.digest().to_string();
    let reply = lab.ask_as_alice(manifest("priv/app", "v1"));
    assert_eq!((reply.status, &*reply.code()), (412, "PROJECTPOLICYVIOLATION"));
    assert!(reply.json()["errors"][0]["message"].as_str().unwrap().contains("3 vulnerabilities"));
    let head = lab.ask_as_alice(manifest("priv/app", "v1").head());
    assert_eq!((head.status, head.body.len()), (412, 0));
    assert_eq!(lab.ask_as_alice(manifest("priv/app", "v1").header("if-none-match", &digest)).status, 412);
    assert_eq!(lab.ask_as_alice(manifest("priv/app", "none")).status, 404);
    assert_eq!(lab.ask(lab.layer()).status, 200);
    lab.harbor.set_policy("priv", None);
    assert_eq!(lab.ask_as_alice(manifest("priv/app", "v1")).status, 200);
}

#[test]
fn an_oci_manifest_comes_only_to_who_names_its_type() {
    let lab = Lab::start();
    let index = lab.harbor.publish_index(&[("amd64", &lab.image)], "multi");
    let ask = |reference: &str, accept: &str| {
        lab.ask_as_alice(manifest("priv/app", reference).header("accept", accept))
    };
    for accept in ["*/*", "application/vnd.docker.distribution.manifest.v2+json", OCI_INDEX] {
        let reply = ask("v1", accept);
        assert_eq!((reply.status, &*reply.code()), (404, "MANIFEST_UNKNOWN"), "{accept}");
    }
    assert_eq!(ask("v1", &format!("text/plain, {OCI_MANIFEST};q=0.5")).status, 200);
    assert_eq!(ask("multi", OCI_MANIFEST).status, 404);
    let reply = ask("multi", OCI_INDEX);
    assert_eq!(reply.header("docker-content-digest"), Some(&*index.to_string()));
    assert_eq!(reply.json()["manifests"][0]["digest"], lab.image.manifest.digest().to_string());
}

#[test]
fn docker_manifests_and_lists_always_come() {
    let lab = Lab::start();
    lab.harbor.publish_index(&[("amd64", &lab.public)], "multi");
    for reference in ["v1", "multi"] {
        let ask = Ask::get(format!("/v2/pub/app/manifests/{reference}"));
        assert_eq!(lab.ask(ask.header("authorization", "none")).status, 200);
    }
}

#[test]
fn a_range_of_a_manifest_is_the_whole_of_it() {
    let lab = Lab::start();
    let reply = lab.ask_as_alice(manifest("priv/app", "v1").range("bytes=0-0"));
    assert_eq!((reply.status, &reply.body[..]), (200, lab.image.manifest.content()));
    assert_eq!(lab.harbor.pulls("priv/app"), 1);
}

#[test]
fn an_unknown_manifest_is_not_found_in_harbors_words() {
    let lab = Lab::start();
    let digest = Digest::of(b"x").to_string();
    for reference in ["none", &digest, "sha256:totallywrong"] {
        let reply = lab.ask_as_alice(manifest("priv/app", reference));
        assert_eq!((reply.status, &*reply.code()), (404, "NOT_FOUND"), "{reference}");
    }
}

#[test]
fn a_pull_is_a_get_with_200_by_anyone_but_harbors_own_client() {
    let lab = Lab::start();
    let pulls_after = |ask: Ask| {
        lab.ask_as_alice(ask);
        lab.harbor.pulls("priv/app")
    };
    let ask = || manifest("priv/app", "v1");
    assert_eq!(pulls_after(ask()), 1);
    assert_eq!(pulls_after(ask().head()), 1);
    assert_eq!(pulls_after(ask().header("user-agent", "harbor-registry-client")), 1);
    assert_eq!(pulls_after(ask().header("accept", "*/*")), 1);
    assert_eq!(pulls_after(lab.layer()), 1);
    assert_eq!(pulls_after(ask().header("user-agent", "harbor-registry-client/2")), 2);
    assert_eq!(lab.harbor.pulls("pub/app"), 0);
}
