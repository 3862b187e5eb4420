//! Fills a registry as a client does (distribution spec, "Push"). One that refuses something is
//! asked for it all the same: through the door as directly.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use hyper::header::CONTENT_TYPE;

use super::content::{Content, REPOSITORY};
use crate::exchange::{Request, Server};

/// Pushes all content. What the registry refuses is named.
pub(super) fn all(server: &Server<'_>, content: &Content) -> Result<Vec<String>> {
    let mut refused = Vec::new();
    for (image, tag) in content.images() {
        let push = Push { server, repository: &image.repository };
        for blob in image.blobs() {
            push.blob(&blob.digest().to_string(), blob.content()).context("push a blob of an image")?;
        }
        push.manifest(tag, image.media_type, image.manifest.content()).context("push an image")?;
    }
    let push = Push { server, repository: REPOSITORY };
    for blob in content.blobs() {
        push.blob(&blob.digest().to_string(), blob.content()).context("push a blob")?;
    }
    let (sha512, bytes) = &content.other_algorithm;
    refused.extend(push.blob(sha512, bytes).err().map(|error| format!("sha512: {error:#}")));
    for manifest in &content.manifests {
        let pushed = push.manifest(manifest.tag, manifest.media_type, manifest.blob.content());
        refused.extend(pushed.err().map(|error| format!("{}: {error:#}", manifest.tag)));
    }
    Ok(refused)
}

struct Push<'a> {
    server: &'a Server<'a>,
    repository: &'a str,
}

impl Push<'_> {
    fn blob(&self, digest: &str, content: &[u8]) -> Result<()> {
        let begin = Request::new(Method::POST, format!("/v2/{}/blobs/uploads/", self.repository));
        let begun = self.server.ask(&begin)?;
        ensure!(begun.status == 202, "upload: {begun}");
        let place = begun.header("location").context("no place to upload to")?;
        let path = place.trim_start_matches(&format!("https://{}", self.server.host()));
        let joined = if path.contains('?') { '&' } else { '?' };
        let end = Request::new(Method::PUT, format!("{path}{joined}digest={digest}"));
        self.put(end, "application/octet-stream", content)
    }

    fn manifest(&self, tag: &str, media_type: &str, content: &[u8]) -> Result<()> {
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        self.put(Request::new(Method::PUT, path), media_type, content)
    }

    fn put(&self, request: Request, media_type: &str, content: &[u8]) -> Result<()> {
        let body = Bytes::copy_from_slice(content);
        let reply = self.server.ask(&Request { body, ..request.header(CONTENT_TYPE, media_type) })?;
        ensure!(reply.status == 201, "{reply}");
        Ok(())
    }
}
