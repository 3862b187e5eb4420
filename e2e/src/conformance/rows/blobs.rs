//! Whole blobs.

use hyper::header::ACCEPT_ENCODING;

use super::super::content::{Content, OTHER, REPOSITORY};
use super::super::row::{Expect, Row};
use super::{MAIN, SPEC_PULL, UNKNOWN, V1, WRONG, blob};
use crate::image::Blob;

pub(super) fn rows(content: &Content) -> Vec<Row> {
    let mut rows = unknown();
    rows.extend(known(content));
    rows.extend(odd(content));
    rows
}

fn unknown() -> Vec<Row> {
    let path = format!("{REPOSITORY}/blobs/{UNKNOWN}");
    let why = "a client learns that there is none, from the registry";
    vec![
        Row::new("blob_head_unknown", why, V1).head(path.clone()).status(&[404]),
        Row::new("blob_get_unknown", why, V1).get(path).status(&[404]).code("BLOB_UNKNOWN"),
        Row::new("blob_get_wrong_digest", "what names nothing is not looked for", MAIN)
            .get(format!("{REPOSITORY}/blobs/{WRONG}"))
            .status(&[400, 404])
            .differs("the door reads digests itself"),
    ]
}

fn known(content: &Content) -> Vec<Row> {
    let image = &content.image;
    let names = ["blob_get_layer", "blob_get_middle_layer", "blob_get_tiny_layer"];
    let get = |(name, layer): (&'static str, &Blob)| {
        Row::new(name, "the bytes are those that were pushed", V1).get(blob(layer)).whole(layer)
    };
    let mut rows = vec![
        Row::new("blob_head_known", "a client plans by the size", V1)
            .head(blob(&image.layers[0]))
            .whole(&image.layers[0]),
        Row::new("blob_head_config", "small blobs are not other blobs", V1)
            .head(blob(&image.config))
            .whole(&image.config),
        Row::new("blob_get_config", "the first blob of any pull", V1)
            .get(blob(&image.config))
            .whole(&image.config),
    ];
    rows.extend(names.into_iter().zip(&image.layers).map(get));
    rows.push(
        Row::new("blob_get_again", "a cache does not change what it gives", MAIN)
            .get(blob(&image.layers[0]))
            .whole(&image.layers[0])
            .says("content-type", "application/octet-stream")
            .says("accept-ranges", "bytes"),
    );
    rows.push(
        Row::new("blob_get_of_docker", "Docker's media types are served alike", MAIN)
            .get(blob(&content.docker.layers[0]))
            .whole(&content.docker.layers[0]),
    );
    rows
}

fn odd(content: &Content) -> Vec<Row> {
    let other = &content.elsewhere.layers[0];
    let (sha512, bytes) = &content.other_algorithm;
    vec![
        Row::new("blob_get_empty", "zero bytes are a blob", MAIN)
            .get(blob(&content.empty))
            .whole(&content.empty),
        Row::new("blob_head_empty", "and have a length", MAIN)
            .head(blob(&content.empty))
            .whole(&content.empty),
        Row::new("blob_get_sha512", "other algorithms pass through", MAIN)
            .get(format!("{REPOSITORY}/blobs/{sha512}"))
            .status(&[200])
            .body(bytes),
        Row::new("blob_head_sha512", "other algorithms pass through", MAIN)
            .head(format!("{REPOSITORY}/blobs/{sha512}"))
            .status(&[200])
            .expect(Expect::Length(bytes.len() as u64)),
        Row::new("blob_get_elsewhere", "a blob is had through its repository", SPEC_PULL)
            .get(format!("{OTHER}/blobs/{}", other.digest()))
            .whole(other),
        Row::new("blob_get_not_in_repository", "and through no other, though the node has it", SPEC_PULL)
            .get(blob(other))
            .status(&[404])
            .code("BLOB_UNKNOWN"),
        Row::new("blob_get_uncompressed", "compressed bytes would have another digest", SPEC_PULL)
            .get(blob(&content.image.layers[1]))
            .header(ACCEPT_ENCODING, "gzip, zstd, br")
            .whole(&content.image.layers[1])
            .expect(Expect::NoHeader("content-encoding")),
    ]
}
