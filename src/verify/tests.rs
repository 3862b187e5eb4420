//! Against a peer that is a small server: its pages, and its mirror and prefix doors.

use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::Digest;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use super::*;
use crate::http::{Body, Server, full, oci_error};

#[tokio::test]
async fn bytes_that_the_peer_had_from_the_region_are_proven() {
    let peer = FakePeer { source: "seed", ..FakePeer::ready() };
    let server = peer.serve().await;
    let report = measure(&args(&server, "reg.test/app:v1", DoorArgument::Mirror)).await.unwrap();
    assert!(report.from_region, "{}", report.verdict);
    let value = serde_json::to_value(&report).unwrap();
    assert_eq!(value["counted"]["seed"], BYTES);
    assert_eq!(
        (&value["bytes"], &value["node"], &value["blobs"]),
        (&json!(BYTES), &json!("peer-0"), &json!(2))
    );

    // What it holds it counts no second time.
    let again = measure(&args(&server, "reg.test/app:v1", DoorArgument::Prefix)).await.unwrap();
    assert!(again.from_region, "{}", again.verdict);
    assert_eq!(serde_json::to_value(&again).unwrap()["uncounted"], BYTES);
}

#[tokio::test]
async fn bytes_that_came_another_way_are_not() {
    let server = FakePeer { source: "registry", ..FakePeer::ready() }.serve().await;
    let report = measure(&args(&server, "reg.test/app:v1", DoorArgument::Mirror)).await.unwrap();
    assert!(!report.from_region && report.verdict.contains("from the registry itself"), "{}", report.verdict);

    let server = FakePeer { source: "nobody", ..FakePeer::ready() }.serve().await;
    let report = measure(&args(&server, "reg.test/app:v1", DoorArgument::Mirror)).await.unwrap();
    assert!(report.verdict.contains("counters do not cover it"), "{}", report.verdict);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_doors_words() {
    let server = FakePeer::ready().serve().await;
    let report = measure(&args(&server, "reg.test/private:v1", DoorArgument::Mirror)).await.unwrap();
    assert!(!report.from_region);
    assert!(report.verdict.ends_with("403 Forbidden: DENIED: not for you"), "{}", report.verdict);
    assert!(report.for_people().contains("not pulled"));
}

#[tokio::test]
async fn a_peer_that_cannot_serve_says_what_it_lacks() {
    let server = FakePeer { missing: json!({ "scheduler": "none" }), ..FakePeer::ready() }.serve().await;
    let ask =
        async |image| measure(&args(&server, image, DoorArgument::Mirror)).await.unwrap_err().to_string();
    assert_eq!(ask("reg.test/app:v1").await, "the peer is not ready: scheduler: none");

    let server = FakePeer::ready().serve().await;
    let error = measure(&args(&server, "b.test/app:v1", DoorArgument::Mirror)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "peer-0 carries no b.test, only: reg.test. At the manager: flotilla registry set"
    );
    let mut proxied = args(&server, "reg.test/app:v1", DoorArgument::Proxy);
    proxied.data_dir = "/no/such".into();
    let error = measure(&proxied).await.unwrap_err().to_string();
    assert!(error.starts_with("read the peer's CA /no/such/ca/reg.test.pem"), "{error}");
}

/// What the fake says of itself, and where it counts the bytes of its first pull.
#[derive(Clone)]
struct FakePeer {
    source: &'static str,
    missing: serde_json::Value,
}

impl FakePeer {
    fn ready() -> Self {
        Self { source: "peer", missing: json!({}) }
    }

    async fn serve(self) -> Server {
        let served = Arc::new(AtomicU64::new(0));
        let answer = move |request: Request<Incoming>| {
            let host = request.headers()["host"].to_str().unwrap();
            let response = self.answer(request.uri().path(), host, &served);
            async move { response }
        };
        Server::start(answer).await.unwrap()
    }

    fn answer(&self, path: &str, host: &str, served: &AtomicU64) -> Response<Body> {
        let path = path.replace("/v2/reg.test/", "/v2/");
        let json = |value: serde_json::Value| Response::new(full(value.to_string()));
        let blob = |content: &'static [u8]| {
            // A blob is counted when it is first asked for.
            if served.load(Ordering::Relaxed) < BYTES {
                served.fetch_add(content.len() as u64, Ordering::Relaxed);
            }
            Response::new(full(content))
        };
        match path.as_str() {
            "/readyz" => {
                let ready = self.missing == json!({});
                let mut response = json(json!({ "ready": ready, "missing": self.missing }));
                let refused = StatusCode::SERVICE_UNAVAILABLE;
                *response.status_mut() = if ready { StatusCode::OK } else { refused };
                response
            }
            "/status" => json(json!({
                "name": "peer-0", "role": "peer", "region": "eu", "door": host,
                "registries": ["reg.test"],
            })),
            "/metrics" => Response::new(full(format!(
                "flotilla_peer_piece_bytes_total{{source=\"{}\"}} {}\n",
                self.source,
                served.load(Ordering::Relaxed)
            ))),
            "/v2/app/manifests/v1" => {
                let descriptor =
                    |content: &[u8]| json!({ "digest": Digest::of(content), "size": content.len() });
                json(json!({ "config": descriptor(CONFIG), "layers": [descriptor(LAYER)] }))
            }
            path if path == format!("/v2/app/blobs/{}", Digest::of(CONFIG)) => blob(CONFIG),
            path if path == format!("/v2/app/blobs/{}", Digest::of(LAYER)) => blob(LAYER),
            _ => oci_error(StatusCode::FORBIDDEN, "DENIED", "not for you"),
        }
    }
}

fn args(server: &Server, image: &str, door: DoorArgument) -> VerifyArgs {
    VerifyArgs {
        image: image.parse().unwrap(),
        door,
        peer: None,
        admin: server.url().parse().unwrap(),
        data_dir: "/no/such".into(),
        account: AccountArgs::default(),
        output: OutputFormat::Json,
    }
}

const CONFIG: &[u8] = b"{}";

const LAYER: &[u8] = b"a layer";

const BYTES: u64 = 9;
