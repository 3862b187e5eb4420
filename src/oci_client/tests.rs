//! Pulls from a small registry that asks for accounts as the registries of the world do.

use std::sync::Arc;

use async_compression::tokio::write::GzipEncoder;
use flotilla_proto::Digest;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::http::{Body, Server, full, oci_error};

/// A registry's way of asking: its challenge, with `HOST` for its own address, and what its token
/// service says.
#[derive(Clone, Copy)]
struct Manners {
    registry: &'static str,
    challenge: &'static str,
    /// `None`: HTTP Basic alone.
    answer: Option<&'static str>,
    /// The front end compresses whatever was asked for.
    gzips: bool,
}

const MANNERS: &[Manners] = &[
    Manners {
        registry: "Harbor",
        challenge: r#"Bearer realm="http://HOST/token",service="harbor-registry",scope="repository:app:pull""#,
        answer: Some(
            r#"{"token":"t","access_token":"","expires_in":1800,"issued_at":"2026-11-29T02:09:14Z"}"#,
        ),
        gzips: false,
    },
    Manners {
        registry: "Harbor that compresses",
        challenge: r#"Bearer realm="http://HOST/token",service="harbor-registry",scope="repository:app:pull""#,
        answer: Some(
            r#"{"token":"t","access_token":"","expires_in":1800,"issued_at":"2026-11-29T02:09:14Z"}"#,
        ),
        gzips: true,
    },
    Manners {
        registry: "distribution",
        challenge: r#"Bearer realm="http://HOST/token",service="registry.test",scope="repository:app:pull",error="invalid_token""#,
        answer: Some(r#"{"token":"t","expires_in":3600,"issued_at":"2026-11-29T02:09:14.1Z"}"#),
        gzips: false,
    },
    Manners {
        registry: "Docker Hub",
        challenge: r#"Bearer realm="http://HOST/token",service="registry.docker.io",scope="repository:app:pull""#,
        answer: Some(
            r#"{"token":"t","access_token":"t","expires_in":300,"issued_at":"2026-11-29T02:09:14.1Z"}"#,
        ),
        gzips: false,
    },
    Manners {
        registry: "GHCR",
        challenge: r#"Bearer realm="http://HOST/token",service="ghcr.io",scope="repository:user/image:pull""#,
        answer: Some(r#"{"token":"t"}"#),
        gzips: false,
    },
    Manners {
        registry: "ECR Public",
        challenge: r#"Bearer realm="http://HOST/token",service="public.ecr.aws",scope="aws""#,
        answer: Some(r#"{"token":"t"}"#),
        gzips: false,
    },
    Manners {
        registry: "ECR",
        challenge: r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#,
        answer: None,
        gzips: false,
    },
    Manners {
        registry: "GitLab",
        challenge: r#"Bearer realm="http://HOST/token",service="container_registry",scope="repository:app:pull",error="invalid_token""#,
        answer: Some(r#"{"token":"t","expires_in":900}"#),
        gzips: false,
    },
    Manners {
        registry: "Quay",
        challenge: r#"Bearer realm="http://HOST/token",service="quay.io",scope="repository:app:pull""#,
        answer: Some(r#"{"token":"t","access_token":null}"#),
        gzips: false,
    },
    Manners {
        registry: "zot",
        challenge: r#"bearer realm="http://HOST/token",service="zot",scope="repository:app:pull""#,
        answer: Some(r#"{"token":"t","access_token":"t","expires_in":60}"#),
        gzips: false,
    },
    Manners {
        registry: "zot with passwords",
        challenge: r#"Basic realm="Authorization Required""#,
        answer: None,
        gzips: false,
    },
    Manners {
        registry: "Azure",
        challenge: r#"Bearer realm="http://HOST/token",service="x.azurecr.io",scope="repository:app:pull""#,
        answer: Some(r#"{"access_token":"t"}"#),
        gzips: false,
    },
    Manners {
        registry: "one that offers both",
        challenge: r#"Basic realm="reg", Bearer realm="http://HOST/token",service="reg""#,
        answer: Some(r#"{"token":"t"}"#),
        gzips: true,
    },
];

#[tokio::test]
async fn a_private_image_is_pulled_from_every_kind_of_registry() {
    for manners in MANNERS {
        let server = serve(*manners).await;
        let pulled = pull(plan(&server, Some(ROBOT))).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{}: {error}", manners.registry));
        assert_eq!(pulled.blobs.len(), 2, "{}", manners.registry);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_in_the_registrys_words() {
    for manners in MANNERS {
        let server = serve(*manners).await;
        let error = pull(plan(&server, Some(("robot", "wrong")))).await.unwrap_err().to_string();
        assert!(error.ends_with("401 Unauthorized: UNAUTHORIZED: who are you?"), "{error}");
        server.stop().await;
    }
}

fn plan(server: &Server, account: Option<(&str, &str)>) -> ClientPlan {
    ClientPlan {
        http: HttpClient::loopback(),
        door: Door::Mirror(server.url()),
        image: "reg.test/app:v1".parse().unwrap(),
        credentials: account.map(|(user, password)| Arc::new(Credentials::new(user, password))),
        progress: Arc::new(NodeProgress::default()),
    }
}

async fn serve(manners: Manners) -> Server {
    let answer = move |request: Request<Incoming>| async move {
        let mut response = manners.answer(&request);
        // The doors of a peer send blobs as they are.
        if manners.gzips && !request.uri().path().contains("/blobs/") {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let mut encoder = GzipEncoder::new(Vec::new());
            encoder.write_all(&body).await.unwrap();
            encoder.shutdown().await.unwrap();
            response = Response::new(full(encoder.into_inner()));
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            let mut plain = manners.answer(&request);
            *response.status_mut() = plain.status();
            response.headers_mut().extend(std::mem::take(plain.headers_mut()));
        }
        response
    };
    Server::start(answer).await.unwrap()
}

impl Manners {
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let asks_token = request.uri().path() == "/token";
        let wanted = if asks_token || self.answer.is_none() { BASIC } else { "Bearer t" };
        if given != Some(wanted) {
            return self.refusal(request);
        }
        let config = json!({ "digest": Digest::of(CONFIG), "size": CONFIG.len() });
        let layer = json!({ "digest": Digest::of(LAYER), "size": LAYER.len() });
        match (request.uri().path(), self.answer) {
            ("/token", Some(answer)) => Response::new(full(answer)),
            ("/v2/app/manifests/v1", _) => {
                Response::new(full(json!({ "config": config, "layers": [layer] }).to_string()))
            }
            (path, _) if path.ends_with(&Digest::of(CONFIG).to_string()) => Response::new(full(CONFIG)),
            (path, _) if path.ends_with(&Digest::of(LAYER).to_string()) => Response::new(full(LAYER)),
            (path, _) => panic!("{}: {path}", self.registry),
        }
    }

    fn refusal(&self, request: &Request<Incoming>) -> Response<Body> {
        let host = request.headers()["host"].to_str().unwrap();
        let mut response = oci_error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "who are you?");
        let challenge = self.challenge.replace("HOST", host).parse().unwrap();
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        response
    }
}

/// `robot:secret`.
const BASIC: &str = "Basic cm9ib3Q6c2VjcmV0";

const ROBOT: (&str, &str) = ("robot", "secret");

const CONFIG: &[u8] = b"{}";

const LAYER: &[u8] = b"a layer";
