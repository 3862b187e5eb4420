//! §2.2: blobs by 307 from an object store.

use std::time::Duration;

use super::*;

fn redirecting() -> Lab {
    let lab = Lab::start();
    lab.harbor.configure(|behaviour| behaviour.redirect_blobs = true);
    lab
}

#[test]
fn a_blob_is_redirected_to_a_url_that_needs_no_credential() {
    let lab = redirecting();
    let reply = lab.ask(lab.layer());
    assert_eq!(reply.status, 307);
    let url = reply.header("location").unwrap();
    let reply = lab.ask(Ask::url(url));
    assert_eq!((reply.status, &reply.body[..]), (200, lab.layer_content()));
    let reply = lab.ask(Ask::url(url).range("bytes=10-"));
    assert_eq!((reply.status, &reply.body[..]), (206, &lab.layer_content()[10..]));
}

#[test]
fn the_object_store_refuses_a_credential_beside_the_signature() {
    let lab = redirecting();
    let reply = lab.ask(lab.layer());
    let reply = lab.ask(Ask::url(reply.header("location").unwrap()).basic("alice", "secret"));
    assert_eq!(reply.status, 400);
    assert!(String::from_utf8(reply.body).unwrap().contains("<Code>InvalidArgument</Code>"));
}

#[test]
fn a_url_is_good_for_its_method_and_its_blob() {
    let lab = redirecting();
    let get = lab.ask(lab.layer());
    let url = get.header("location").unwrap();
    assert_eq!(lab.ask(Ask::url(url).head()).status, 403);
    let other = url.replace(&lab.image.layers[0].digest().hex(), &lab.image.layers[1].digest().hex());
    assert_eq!(lab.ask(Ask::url(&other)).status, 403);
    let head = lab.ask(lab.layer().head());
    let url = head.header("location").unwrap();
    assert_eq!(lab.ask(Ask::url(url).head()).status, 200);
    lab.harbor.configure(|behaviour| behaviour.storage_forbids_head = true);
    assert_eq!(lab.ask(Ask::url(url).head()).status, 403);
}

#[test]
fn a_url_expires() {
    let lab = redirecting();
    lab.harbor.configure(|behaviour| behaviour.signed_url_life = Duration::ZERO);
    let reply = lab.ask(lab.layer());
    let reply = lab.ask(Ask::url(reply.header("location").unwrap()));
    assert_eq!(reply.status, 403);
    assert!(String::from_utf8(reply.body).unwrap().contains("expired"));
}

#[test]
fn a_redirect_still_needs_permission() {
    let lab = redirecting();
    assert_eq!(lab.ask(lab.layer().basic("alice", "wrong")).status, 401);
    let digest = lab.image.layers[0].digest();
    assert_eq!(lab.ask_as_alice(Ask::get(blob_path("priv/other", digest))).status, 404);
}
