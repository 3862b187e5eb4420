//! What the log says.

use super::*;

#[test]
fn a_request_is_one_line_without_its_secret() {
    let lab = Lab::start();
    lab.ask(lab.layer().range("bytes=0-9").header("user-agent", "test/1"));
    let log = lab.harbor.log();
    let path = blob_path("priv/app", lab.image.layers[0].digest());
    let request = &log.requests[0];
    assert_eq!((&*request.method, &*request.path, request.status), ("GET", &*path, 206));
    assert_eq!((&request.auth, request.bytes), (&Auth::Basic("alice".to_owned()), 10));
    assert_eq!((request.server, request.range.as_deref()), (Host::Registry, Some("bytes=0-9")));
    let line = log.to_string();
    let rest = format!(" 127.0.0.1 GET harbor.test{path} 206 basic:alice bytes=0-9 10 B \"test/1\"\n");
    assert_eq!(line.split_once(' ').unwrap().1, &rest[1..]);
    assert!(!line.contains("secret"));
}

#[test]
fn who_asked_is_told_by_what_they_showed() {
    let lab = Lab::start();
    let named = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    let anonymous = lab.harbor.token(None, "priv/app");
    for ask in [
        Ask::get("/v2/"),
        Ask::get("/v2/").basic("mallory", "guess"),
        Ask::get("/v2/").bearer(&named),
        Ask::get("/v2/").bearer(&anonymous),
        Ask::get("/v2/").bearer("garbage"),
        Ask::get("/v2/").header("authorization", "none"),
    ] {
        lab.ask(ask);
    }
    let auth: Vec<_> =
        lab.harbor.log().requests.into_iter().map(|request| request.auth.to_string()).collect();
    let expected = ["anonymous", "basic:mallory", "bearer:alice", "bearer:", "bearer:?", "unreadable"];
    assert_eq!(auth, expected);
}

#[test]
fn requests_of_one_connection_have_its_number() {
    let lab = Lab::start();
    lab.client.ask_all(vec![Ask::get("/v2/"), Ask::get("/v2/")]);
    lab.ask(Ask::get("/v2/"));
    let log = lab.harbor.log();
    let numbers: Vec<_> = log.requests.iter().map(|request| request.connection).collect();
    assert_eq!(numbers[0], numbers[1]);
    assert_ne!(numbers[1], numbers[2]);
}

#[test]
fn a_blob_counts_as_read_from_either_host() {
    let lab = Lab::start();
    let read_all = || {
        for blob in lab.image.blobs() {
            let reply = lab.ask_as_alice(Ask::get(blob_path("priv/app", blob.digest())));
            if let Some(url) = reply.header("location") {
                lab.ask(Ask::url(url));
            }
        }
    };
    read_all();
    let direct = lab.harbor.log();
    direct.assert_each_blob_read_once(&lab.image).unwrap();
    lab.harbor.configure(|behaviour| behaviour.redirect_blobs = true);
    read_all();
    let both = lab.harbor.log();
    assert!(both.assert_each_blob_read_once(&lab.image).is_err());
    let redirected = both.since(&direct);
    redirected.assert_each_blob_read_once(&lab.image).unwrap();
    redirected.to(Host::Registry).assert_no_blob_read().unwrap();
    assert!(redirected.to(Host::Storage).assert_no_blob_read().is_err());
}
