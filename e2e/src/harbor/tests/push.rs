//! Pushes.

use hyper::Method;

use super::*;

const UPLOADS: &str = "/v2/priv/new/blobs/uploads/";

#[test]
fn a_blob_and_its_manifest_are_pushed_and_come_back() {
    let lab = Lab::start();
    let image = image("priv/new", Format::Oci, 7);
    for blob in image.blobs() {
        let (front, back) = blob.content().split_at(blob.content().len() / 2);
        let upload = lab.ask_as_alice(Ask::new(Method::POST, UPLOADS));
        assert_eq!(upload.status, 202);
        let location = upload.header("location").unwrap();
        let upload = lab.ask_as_alice(Ask::new(Method::PATCH, location).body(front));
        assert_eq!(upload.header("range"), Some(&*format!("0-{}", front.len() - 1)));
        let location = format!("{}&digest={}", upload.header("location").unwrap(), blob.digest());
        let reply = lab.ask_as_alice(Ask::new(Method::PUT, location).body(back));
        assert_eq!(reply.status, 201);
        assert_eq!(reply.header("docker-content-digest"), Some(&*blob.digest().to_string()));
    }
    let put = lab.ask_as_alice(put_manifest(&image));
    assert_eq!(put.status, 201);
    assert_eq!(lab.ask_as_alice(manifest("priv/new", "v2")).body, image.manifest.content());
    let layer = Ask::get(blob_path("priv/new", image.layers[0].digest()));
    assert_eq!(lab.ask_as_alice(layer).body, image.layers[0].content());
}

#[test]
fn a_blob_is_pushed_in_one_request() {
    let lab = Lab::start();
    let digest = Digest::of(b"content");
    let ask = |digest| Ask::new(Method::POST, format!("{UPLOADS}?digest={digest}")).body(b"content");
    assert_eq!(lab.ask_as_alice(ask(digest)).status, 201);
    assert_eq!(lab.ask_as_alice(Ask::get(blob_path("priv/new", digest))).body, b"content");
    let reply = lab.ask_as_alice(ask(Digest::of(b"other")));
    assert_eq!((reply.status, &*reply.code()), (400, "DIGEST_INVALID"));
}

#[test]
fn an_upload_goes_on_where_it_is() {
    let lab = Lab::start();
    let upload = lab.ask_as_alice(Ask::new(Method::POST, UPLOADS));
    let location = upload.header("location").unwrap();
    let patch = |start: &str| Ask::new(Method::PATCH, location).header("content-range", start).body(b"abc");
    assert_eq!(lab.ask_as_alice(patch("0-2")).status, 202);
    assert_eq!(lab.ask_as_alice(patch("0-2")).status, 416);
    assert_eq!(lab.ask_as_alice(patch("3-5")).header("range"), Some("0-5"));
    let reply = lab.ask_as_alice(Ask::get("/v2/priv/new/blobs/uploads/none"));
    assert_eq!((reply.status, &*reply.code()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[test]
fn a_manifest_without_its_blobs_is_refused() {
    let lab = Lab::start();
    let reply = lab.ask_as_alice(put_manifest(&image("priv/new", Format::Oci, 7)));
    assert_eq!((reply.status, &*reply.code()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(lab.ask_as_alice(manifest("priv/new", "v2")).status, 404);
}

#[test]
fn a_push_needs_permission_to_push() {
    let lab = Lab::start();
    let ask = || Ask::new(Method::POST, UPLOADS);
    let scope = ",scope=\"repository:priv/new:pull,push\"";
    assert!(lab.ask(ask()).challenge().ends_with(scope));
    assert_eq!(lab.ask(ask().basic("robot$x", "token")).challenge(), "Basic realm=\"harbor\"");
    let mount = || Ask::new(Method::POST, format!("{UPLOADS}?mount={}&from=pub/app", Digest::of(b"x")));
    assert!(lab.ask(mount()).challenge().ends_with(":pull,push repository:pub/app:pull\""));
    assert_eq!(lab.ask_as_alice(mount()).status, 202);
}

#[test]
fn deleting_needs_more_than_a_user_may() {
    let lab = Lab::start();
    lab.harbor.add_admin("admin", "Harbor12345");
    let ask = || manifest("priv/app", lab.image.manifest.digest()).with(Method::DELETE);
    assert_eq!(lab.ask_as_alice(ask()).status, 401);
    assert_eq!(lab.ask(ask().basic("admin", "Harbor12345")).status, 202);
    assert_eq!(lab.ask_as_alice(manifest("priv/app", "v1")).status, 404);
}

fn put_manifest(image: &Image) -> Ask {
    let ask = Ask::new(Method::PUT, format!("/v2/{}/manifests/v2", image.repository));
    ask.header("content-type", image.media_type).body(image.manifest.content())
}
