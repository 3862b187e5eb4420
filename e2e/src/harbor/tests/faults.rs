//! What goes wrong on purpose.

use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_cut_ends_the_connection_at_its_byte() {
    let lab = Lab::start();
    let fault = lab.harbor.fault(On::blobs(), What::CutAfter(70_001));
    let reply = lab.ask(lab.layer());
    assert_eq!((reply.status, reply.is_whole), (200, false));
    assert_eq!(reply.body, lab.layer_content()[..70_001]);
    assert_eq!(lab.harbor.log().requests[0].bytes, 70_001);
    assert_eq!(fault.hits(), 1);
}

#[test]
fn a_cut_at_zero_leaves_the_header() {
    let lab = Lab::start();
    lab.harbor.fault(On::blobs(), What::CutAfter(0));
    let reply = lab.ask(lab.layer());
    assert_eq!((reply.status, reply.is_whole, reply.body.len()), (200, false, 0));
}

#[test]
fn a_stall_goes_on_when_it_is_cleared() {
    let lab = Lab::start();
    let fault = lab.harbor.fault(On::blobs(), What::StallAfter(10));
    let reply = thread::scope(|scope| {
        let reply = scope.spawn(|| lab.ask(lab.layer()));
        wait_for_bytes(&lab, 10);
        assert!(!lab.harbor.log_at_once().requests[0].ended);
        fault.clear();
        reply.join().unwrap()
    });
    assert_eq!(reply.body, lab.layer_content());
    assert!(lab.harbor.log().requests[0].ended);
}

#[test]
fn a_hang_begins_when_it_is_cleared() {
    let lab = Lab::start();
    let fault = lab.harbor.fault(On::manifests().get(), What::Hang);
    let reply = thread::scope(|scope| {
        let reply = scope.spawn(|| lab.ask_as_alice(manifest("priv/app", "v1")));
        wait::until("hit", Duration::from_secs(10), || Ok((fault.hits() == 1).then_some(()))).unwrap();
        assert_eq!(lab.harbor.log_at_once().requests[0].status, 0);
        fault.clear();
        reply.join().unwrap()
    });
    assert_eq!(reply.status, 200);
}

#[test]
fn a_truncated_body_ends_well_and_too_soon() {
    let lab = Lab::start();
    lab.harbor.fault(On::blobs(), What::Truncate(50_000));
    let reply = lab.ask(lab.layer());
    assert_eq!((reply.status, reply.is_whole, reply.is_chunked()), (200, true, true));
    assert_eq!(reply.body, lab.layer_content()[..50_000]);
}

#[test]
fn wrong_bytes_are_wrong_by_one_bit() {
    let lab = Lab::start();
    lab.harbor.fault(On::blobs(), What::WrongBytes);
    let reply = lab.ask(lab.layer());
    let pairs = reply.body.iter().zip(lab.layer_content());
    assert_eq!(pairs.map(|(sent, right)| (sent ^ right).count_ones()).sum::<u32>(), 1);
    assert_eq!(reply.body.len(), lab.layer_content().len());
}

#[test]
fn a_range_is_ignored_on_demand() {
    let lab = Lab::start();
    lab.harbor.fault(On::blobs(), What::IgnoreRange);
    let reply = lab.ask(lab.layer().range("bytes=5-9"));
    assert_eq!((reply.status, reply.header("content-range")), (200, None));
    assert_eq!(reply.body, lab.layer_content());
}

#[test]
fn another_answer_comes_in_its_place_and_nothing_is_counted() {
    let lab = Lab::start();
    let ask = || lab.ask_as_alice(manifest("priv/app", "v1"));
    let fault = lab.harbor.fault(On::manifests(), What::Status(503));
    let reply = ask();
    assert_eq!((reply.status, &*reply.code()), (503, "UNKNOWN"));
    fault.clear();
    let fault = lab.harbor.fault(On::manifests(), What::TooMany { retry_after: Some(7) });
    let reply = ask();
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("7")));
    assert_eq!(reply.code(), "TOO_MANY_REQUEST");
    fault.clear();
    let fault = lab.harbor.fault(On::manifests(), What::Html200);
    let reply = ask();
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html")));
    fault.clear();
    assert_eq!(lab.harbor.pulls("priv/app"), 0);
    assert_eq!(ask().status, 200);
}

#[test]
fn a_delay_comes_before_the_header() {
    let lab = Lab::start();
    let delay = Duration::from_millis(50);
    lab.harbor.fault(On::tokens(), What::Delay(delay));
    let start = Instant::now();
    let token = Ask::get("/service/token?service=harbor-registry&scope=repository:priv/app:pull");
    assert_eq!(lab.ask(token).status, 200);
    assert!(start.elapsed() >= delay);
}

#[test]
fn a_fault_strikes_the_requests_it_is_for_and_no_others() {
    let lab = Lab::start();
    let layer = lab.image.layers[0].digest();
    let on = On::blobs().get().repository("priv/app").digest(layer).skip(1).times(2);
    let fault = lab.harbor.fault(on, What::Status(500));
    let statuses: Vec<_> = (0..4).map(|_| lab.ask(lab.layer()).status).collect();
    assert_eq!(statuses, [200, 500, 500, 200]);
    assert_eq!(lab.ask(lab.layer().head()).status, 200);
    assert_eq!(fault.hits(), 2);
    let other = lab.image.layers[1].digest();
    assert_eq!(lab.ask_as_alice(Ask::get(blob_path("priv/app", other))).status, 200);
}

#[test]
fn a_digest_is_found_behind_a_tag() {
    let lab = Lab::start();
    lab.harbor.fault(On::manifests().digest(lab.image.manifest.digest()), What::Status(500));
    assert_eq!(lab.ask_as_alice(manifest("priv/app", "v1")).status, 500);
}

#[test]
fn a_challenge_does_not_use_a_fault_up_but_at_the_base() {
    let lab = Lab::start();
    let fault = lab.harbor.fault(On::manifests().times(1), What::Status(500));
    assert_eq!(lab.ask(manifest("priv/app", "v1")).status, 401);
    assert_eq!(fault.hits(), 0);
    assert_eq!(lab.ask_as_alice(manifest("priv/app", "v1")).status, 500);
    lab.harbor.fault(On::base(), What::Status(502));
    assert_eq!(lab.ask(Ask::get("/v2/")).status, 502);
}

#[test]
fn a_short_body_does_not_use_a_cut_up() {
    let lab = Lab::start();
    let fault = lab.harbor.fault(On::blobs().times(1), What::CutAfter(50_000));
    let config = Ask::get(blob_path("priv/app", lab.image.config.digest()));
    assert!(lab.ask_as_alice(config).is_whole);
    assert!(lab.ask(lab.layer().range("bytes=0-0")).is_whole);
    assert_eq!(fault.hits(), 0);
    assert!(!lab.ask(lab.layer()).is_whole);
}

#[test]
fn the_object_store_fails_apart_from_the_registry() {
    let lab = Lab::start();
    lab.harbor.configure(|behaviour| behaviour.redirect_blobs = true);
    let layer = lab.image.layers[0].digest();
    lab.harbor.fault(On::storage().digest(layer), What::CutAfter(1000));
    let reply = lab.ask(lab.layer());
    assert_eq!(reply.status, 307);
    let reply = lab.ask(Ask::url(reply.header("location").unwrap()));
    assert_eq!((reply.is_whole, reply.body.len()), (false, 1000));
}

/// Waits until so many bytes of the first request's answer were sent.
fn wait_for_bytes(lab: &Lab, bytes: u64) {
    let sent = || lab.harbor.log_at_once().requests.first().map_or(0, |request| request.bytes);
    wait::until("bytes", Duration::from_secs(10), || Ok((sent() >= bytes).then_some(()))).unwrap();
}
