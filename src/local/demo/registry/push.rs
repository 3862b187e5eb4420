//! Pushes an image (distribution spec, "Pushing Content"): a POST opens an upload, one PUT
//! fills it.

use anyhow::{Context as _, ensure};
use flotilla_proto::Digest;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};

use crate::http::{Body, HttpClient, empty, file, full, text};
use crate::local::demo::generate::{GeneratedImage, MANIFEST_TYPE};
use crate::oci_client::ImageReference;

/// Pushes all blobs, then the manifest, to the registry at `url`.
pub(super) async fn push(image: &GeneratedImage, name: &ImageReference, url: &str) -> anyhow::Result<()> {
    let push = Push { http: HttpClient::loopback(), image, url, name };
    for (digest, len) in &image.blobs {
        push.blob(digest, *len).await.with_context(|| format!("push blob {digest}"))?;
    }
    push.manifest().await.context("push the manifest")
}

struct Push<'a> {
    http: HttpClient,
    image: &'a GeneratedImage,
    url: &'a str,
    name: &'a ImageReference,
}

impl Push<'_> {
    async fn blob(&self, digest: &Digest, len: u64) -> anyhow::Result<()> {
        let open = Request::post(self.uri("blobs/uploads/")?).body(empty())?;
        let opened = self.send(open, StatusCode::ACCEPTED).await?;
        let location = opened.headers().get(LOCATION).context("the upload has no Location")?.to_str()?;
        // The spec allows a path and a whole URL, with or without a query of its own.
        let location =
            if location.starts_with('/') { format!("{}{location}", self.url) } else { location.to_owned() };
        let separator = if location.contains('?') { '&' } else { '?' };
        let fill = Request::builder()
            .method(Method::PUT)
            .uri(format!("{location}{separator}digest={digest}"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, len)
            .body(file(&self.image.path(digest), 0..len).await?)?;
        self.send(fill, StatusCode::CREATED).await?;
        Ok(())
    }

    async fn manifest(&self) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(self.uri(&format!("manifests/{}", self.name.reference))?)
            .header(CONTENT_TYPE, MANIFEST_TYPE)
            .body(full(self.image.manifest.clone()))?;
        self.send(request, StatusCode::CREATED).await?;
        Ok(())
    }

    fn uri(&self, path: &str) -> anyhow::Result<Uri> {
        Ok(format!("{}/v2/{}/{path}", self.url, self.name.repository).parse()?)
    }

    /// The answer's head, if it has the status that the spec wants.
    async fn send(&self, request: Request<Body>, wanted: StatusCode) -> anyhow::Result<Response<()>> {
        let (head, body) = self.http.send(request).await?.into_parts();
        let body = text(body, MAX_ERROR_LEN).await;
        ensure!(head.status == wanted, "the registry answers {}: {}", head.status, body.trim());
        Ok(Response::from_parts(head, ()))
    }
}

/// Of an answer; what the registry says of an error is shorter.
const MAX_ERROR_LEN: usize = 4096;
