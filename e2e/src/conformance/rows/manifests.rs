//! Manifests and indexes, by tag and by digest.

use hyper::header::{IF_NONE_MATCH, RANGE};

use super::super::content::{Content, OCI_INDEX, OCI_MANIFEST, REPOSITORY};
use super::super::row::{Expect, Row};
use super::{MAIN, SPEC_PULL, UNKNOWN, V1, WRONG, blob, manifest};
use crate::image::Blob;

pub(super) fn rows(content: &Content) -> Vec<Row> {
    let mut rows = unknown();
    rows.extend(of_images(content));
    rows.extend(others(content));
    rows.extend(accepted(content));
    rows.extend(conditional(content));
    rows.push(foreign_layer(content));
    rows
}

fn unknown() -> Vec<Row> {
    let why = "a client learns that there is none, from the registry";
    let get = |name, reference: &str| Row::new(name, why, V1).get(manifest(reference)).accept(OCI_MANIFEST);
    let head = |name, reference: &str| Row::new(name, why, V1).head(manifest(reference)).accept(OCI_MANIFEST);
    let fails = "docker-registry 2.8.2 answers 500 to a digest that is none";
    vec![
        head("manifest_head_unknown_digest", UNKNOWN).status(&[404]),
        get("manifest_get_unknown_digest", UNKNOWN).status(&[404]),
        head("manifest_head_unknown_tag", "no-such-tag").status(&[404]),
        get("manifest_get_unknown_tag", "no-such-tag").status(&[404]),
        get("manifest_get_wrong_digest", WRONG).status(&[400, 404]).docker_registry_fails(fails),
        head("manifest_head_wrong_digest", WRONG).status(&[400, 404]).docker_registry_fails(fails),
    ]
}

fn of_images(content: &Content) -> Vec<Row> {
    let images = content.images().into_iter().filter(|(image, _)| image.repository == REPOSITORY);
    images.flat_map(|(image, tag)| four(tag, &image.manifest, image.media_type)).collect()
}

fn others(content: &Content) -> Vec<Row> {
    let manifests = content.manifests.iter();
    manifests.flat_map(|manifest| four(manifest.tag, &manifest.blob, manifest.media_type)).collect()
}

/// HEAD and GET by tag and by digest.
fn four(tag: &str, content: &Blob, media_type: &'static str) -> [Row; 4] {
    let digest = content.digest().to_string();
    let row = |how: &str| {
        Row::new(format!("{tag}_{how}"), "byte for byte, with its own type and digest", V1).accept(media_type)
    };
    let whole = |row: Row| row.whole(content).says("content-type", media_type);
    [
        whole(row("head_tag").head(manifest(tag))),
        whole(row("get_tag").get(manifest(tag))),
        whole(row("head_digest").head(manifest(&digest))),
        whole(row("get_digest").get(manifest(&digest))),
    ]
}

fn accepted(content: &Content) -> Vec<Row> {
    let image = &content.image.manifest;
    let why = "the registry judges what the client takes, and the door keeps its list";
    vec![
        Row::new("accept_none", why, SPEC_PULL).get(manifest("v1")).status(&[404]),
        Row::new("accept_anything", why, SPEC_PULL).get(manifest("v1")).accept("*/*").status(&[404]),
        Row::new("accept_docker_only", why, SPEC_PULL)
            .get(manifest(image.digest()))
            .accept("application/vnd.docker.distribution.manifest.v2+json")
            .status(&[404]),
        Row::new("accept_no_index", why, SPEC_PULL)
            .get(manifest("index"))
            .accept(OCI_MANIFEST)
            .status(&[404]),
        Row::new("accept_list", why, SPEC_PULL)
            .get(manifest("index"))
            .accept(&format!("application/vnd.docker.distribution.manifest.list.v2+json, {OCI_INDEX}, */*"))
            .whole(&content.manifest("index").blob),
    ]
}

fn conditional(content: &Content) -> Vec<Row> {
    let image = &content.image.manifest;
    let row = |name, why| Row::new(name, why, SPEC_PULL).get(manifest("v1")).accept(OCI_MANIFEST);
    let tag = format!("\"{}\"", image.digest());
    vec![
        row("manifest_not_modified", "who has it is told so")
            .header(IF_NONE_MATCH, &tag)
            .status(&[304])
            .expect(Expect::NoHeader("content-type")),
        row("manifest_modified", "who has another gets it").header(IF_NONE_MATCH, "\"other\"").whole(image),
        row("manifest_has_no_parts", "a manifest comes whole").header(RANGE, "bytes=0-9").whole(image),
        Row::new("manifest_after_all", "the same as ever", MAIN)
            .get(manifest("v1"))
            .accept(OCI_MANIFEST)
            .whole(image),
    ]
}

/// The manifest was served: what it says is to be had elsewhere is not granted by it.
fn foreign_layer(content: &Content) -> Row {
    Row::new("foreign_layer_is_not_granted", "a layer with urls is the registry's to judge", MAIN)
        .get(blob(&content.foreign))
        .status(&[404])
        .code("BLOB_UNKNOWN")
}
