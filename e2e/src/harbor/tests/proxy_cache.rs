//! §2.3 and §2.7: proxy-cache projects.

use super::*;

/// A lab with the proxy-cache project `hub`, whose upstream has `hub/library/app:v1`.
struct Cached {
    lab: Lab,
    image: Image,
}

const NAME: &str = "hub/library/app";

impl Cached {
    fn start(settings: ProxyCache) -> Self {
        let lab = Lab::start();
        lab.harbor.add_proxy_cache("hub", settings);
        lab.harbor.add_user("alice", "secret", &["hub"]);
        let image = image(NAME, Format::Oci, 5);
        lab.harbor.publish(&image, "v1");
        Self { lab, image }
    }

    fn ask(&self, ask: Ask) -> Reply {
        self.lab.ask_as_alice(ask)
    }

    fn layer(&self) -> Ask {
        Ask::get(blob_path(NAME, self.image.layers[0].digest()))
    }

    fn reads(&self) -> UpstreamReads {
        self.lab.harbor.upstream_reads(NAME)
    }

    fn set_upstream(&self, upstream: Upstream) {
        self.lab.harbor.add_proxy_cache("hub", ProxyCache { upstream, ..ProxyCache::default() });
    }

    /// Pulls manifest and blobs, so that the image is local.
    fn pull(&self) {
        self.ask(manifest(NAME, "v1"));
        for blob in self.image.blobs() {
            assert_eq!(self.ask(Ask::get(blob_path(NAME, blob.digest()))).status, 200);
        }
    }
}

#[test]
fn a_blob_from_upstream_is_whole_and_without_length() {
    let cached = Cached::start(ProxyCache::default());
    let reply = cached.ask(cached.layer().range("bytes=10-"));
    assert_eq!((reply.status, &reply.body[..]), (200, cached.image.layers[0].content()));
    assert!(reply.is_chunked());
    assert_eq!((reply.header("docker-content-digest"), reply.header("etag")), (None, None));
    assert_eq!(cached.reads().blobs, 2);
}

#[test]
fn a_blob_that_was_sent_whole_is_local() {
    let cached = Cached::start(ProxyCache::default());
    assert_eq!(cached.ask(cached.layer().head()).status, 404);
    cached.lab.harbor.fault(On::blobs().times(1), What::CutAfter(10));
    assert!(!cached.ask(cached.layer()).is_whole);
    assert_eq!(cached.ask(cached.layer().head()).status, 404);
    assert!(cached.ask(cached.layer()).is_chunked());
    assert_eq!(cached.ask(cached.layer().head()).status, 200);
    assert_eq!(cached.ask(cached.layer().range("bytes=10-")).status, 206);
    assert_eq!(cached.reads().blobs, 4);
}

#[test]
fn since_2_16_a_blob_from_upstream_states_its_length() {
    let cached = Cached::start(ProxyCache { states_length: true, ..ProxyCache::default() });
    let reply = cached.ask(cached.layer());
    assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()));
    assert!(reply.header("docker-content-digest").is_some());
    assert_eq!(cached.ask(cached.layer().head()).status, 200);
}

#[test]
fn a_manifest_is_always_sent_until_all_its_blobs_are_local() {
    let cached = Cached::start(ProxyCache::default());
    let digest = cached.image.manifest.digest().to_string();
    let held = || cached.ask(manifest(NAME, "v1").header("if-none-match", &digest)).status;
    assert_eq!(held(), 200);
    let mut blobs = cached.image.blobs();
    let last = blobs.next().unwrap();
    for blob in blobs {
        cached.ask(Ask::get(blob_path(NAME, blob.digest())));
    }
    assert_eq!(held(), 200);
    cached.ask(Ask::get(blob_path(NAME, last.digest())));
    assert_eq!(held(), 304);
}

#[test]
fn an_index_is_local_when_all_that_it_lists_is() {
    let cached = Cached::start(ProxyCache::default());
    let index = cached.lab.harbor.publish_index(&[("amd64", &cached.image)], "multi").to_string();
    let held = || {
        let ask = manifest(NAME, "multi").header("accept", OCI_INDEX);
        cached.ask(ask.header("if-none-match", &index)).status
    };
    assert_eq!((held(), held()), (200, 200));
    cached.pull();
    assert_eq!(held(), 304);
}

#[test]
fn the_first_get_by_tag_has_empty_names() {
    let cached = Cached::start(ProxyCache::default());
    let digest = cached.image.manifest.digest().to_string();
    let named = |reply: &Reply| reply.header("docker-content-digest").map(str::to_owned);
    assert_eq!(named(&cached.ask(manifest(NAME, "v1").head())), Some(digest.clone()));
    let reply = cached.ask(manifest(NAME, "v1"));
    assert_eq!((named(&reply), reply.header("etag")), (Some(String::new()), Some("")));
    assert_eq!(reply.body, cached.image.manifest.content());
    assert_eq!(named(&cached.ask(manifest(NAME, "v1"))), Some(digest.clone()));
    assert_eq!(named(&cached.ask(manifest(NAME, &digest))), Some(digest));
}

#[test]
fn a_tag_always_asks_upstream_and_a_local_digest_never() {
    let cached = Cached::start(ProxyCache::default());
    cached.pull();
    let before = cached.reads().manifests;
    cached.ask(manifest(NAME, cached.image.manifest.digest()));
    assert_eq!(cached.reads().manifests, before);
    cached.ask(manifest(NAME, "v1"));
    assert_eq!(cached.reads().manifests, before + 1);
}

#[test]
fn without_upstream_only_what_is_local_comes() {
    let cached = Cached::start(ProxyCache::default());
    cached.set_upstream(Upstream::Down);
    let reply = cached.ask(manifest(NAME, "v1"));
    assert_eq!((reply.status, &*reply.code()), (404, "NOT_FOUND"));
    let reply = cached.ask(cached.layer());
    assert_eq!((reply.status, &*reply.code()), (500, "UNKNOWN"));
    cached.set_upstream(Upstream::Up);
    cached.pull();
    cached.set_upstream(Upstream::Down);
    assert_eq!(cached.ask(manifest(NAME, "v1")).status, 200);
    assert_eq!(cached.ask(cached.layer()).status, 200);
}

#[test]
fn a_busy_upstream_is_429() {
    let cached = Cached::start(ProxyCache::default());
    cached.set_upstream(Upstream::Busy);
    for ask in [manifest(NAME, "v1"), cached.layer()] {
        let reply = cached.ask(ask);
        assert_eq!((reply.status, &*reply.code()), (429, "TOO_MANY_REQUEST"));
    }
}

#[test]
fn wrong_bytes_of_upstreams_come_again_with_the_claimed_digest() {
    let settings = ProxyCache { states_length: true, upstream: Upstream::Wrong, library: false };
    let cached = Cached::start(settings);
    let digest = cached.image.layers[0].digest();
    for _ in 0..2 {
        let reply = cached.ask(cached.layer());
        assert_eq!(reply.status, 200);
        assert_ne!(Digest::of(&reply.body), digest);
        assert_eq!(reply.header("docker-content-digest"), Some(&*digest.to_string()));
    }
}

#[test]
fn a_name_of_one_component_is_sent_to_library() {
    let cached = Cached::start(ProxyCache { library: true, ..ProxyCache::default() });
    for rest in ["manifests/v1", "blobs/sha256:abc", "tags/list?n=1"] {
        let reply = cached.ask(Ask::get(format!("/v2/hub/app/{rest}")));
        let location = format!("/v2/hub/library/app/{rest}");
        assert_eq!((reply.status, reply.header("location")), (301, Some(&*location)));
    }
    assert_eq!(cached.ask(manifest(NAME, "v1")).status, 200);
    assert_eq!(cached.lab.ask(Ask::get("/v2/hub/app/manifests/v1")).status, 401);
}

#[test]
fn nothing_is_pushed_to_a_proxy_cache() {
    let cached = Cached::start(ProxyCache::default());
    let push = Ask::new(hyper::Method::POST, format!("/v2/{NAME}/blobs/uploads/"));
    assert_eq!(cached.ask(push).status, 405);
}
