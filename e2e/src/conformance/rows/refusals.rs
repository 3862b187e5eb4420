//! What is not to be had: in the registry's words where it was asked, in the door's where not.

use hyper::Method;

use super::super::content::{BLOCKED, Content, OCI_MANIFEST, REPOSITORY};
use super::super::row::{Row, Who};
use super::{MAIN, SPEC_PULL, UNKNOWN, blob, manifest};

/// Whoever asks.
pub(super) fn rows(content: &Content) -> Vec<Row> {
    let mut rows = vec![Row::new("ping", "every client begins with it", MAIN).get("").status(&[200])];
    let uploads = format!("{REPOSITORY}/blobs/uploads/");
    let digest = content.image.manifest.digest();
    let pushes = [
        ("push_begin", Method::POST, uploads.clone()),
        ("push_at_once", Method::POST, format!("{uploads}?digest={UNKNOWN}")),
        ("push_mount", Method::POST, format!("{uploads}?mount={UNKNOWN}&from=priv/other")),
        ("push_go_on", Method::PATCH, format!("{uploads}1")),
        ("push_end", Method::PUT, format!("{uploads}1?digest={UNKNOWN}")),
        ("push_manifest", Method::PUT, manifest("v9")),
        ("delete_manifest", Method::DELETE, manifest(digest)),
        ("delete_tag", Method::DELETE, manifest("v1")),
        ("delete_blob", Method::DELETE, blob(&content.image.layers[0])),
    ];
    rows.extend(pushes.map(|(name, method, path)| {
        Row::new(name, "a mirror is read only", "spec.md, Error Codes: UNSUPPORTED")
            .method(method, path)
            .status(&[405])
            .code("UNSUPPORTED")
            .says("flotilla-refused-by", "peer")
            .differs("the registry is not asked")
    }));
    rows
}

/// Of a registry that wants a credential.
pub(super) fn private(content: &Content, challenge: &'static str) -> Vec<Row> {
    let why = "the registry decides, and says how to get in";
    let layer = || blob(&content.image.layers[0]);
    let row = |name| Row::new(name, why, SPEC_PULL).accept(OCI_MANIFEST);
    let unknown = |row: Row| row.status(&[401]).says("flotilla-refused-by", "registry");
    let nobody = |row: Row| unknown(row).who(Who::Nobody).challenge(challenge);
    let liar = |row: Row| unknown(row).who(Who::Liar).challenge("Basic");
    vec![
        nobody(row("nobody_ping").get("")).code("UNAUTHORIZED"),
        nobody(row("nobody_get_manifest").get(manifest("v1"))).code("UNAUTHORIZED"),
        nobody(row("nobody_head_manifest").head(manifest("v1"))),
        nobody(row("nobody_get_blob").get(layer())).code("UNAUTHORIZED"),
        nobody(row("nobody_head_blob").head(layer())),
        nobody(row("nobody_get_tags").get(format!("{REPOSITORY}/tags/list"))).code("UNAUTHORIZED"),
        liar(row("liar_ping").get("")).code("UNAUTHORIZED"),
        liar(row("liar_get_manifest").get(manifest("v1"))).code("UNAUTHORIZED"),
        liar(row("liar_head_manifest").head(manifest("v1"))),
        liar(row("liar_get_blob").get(layer())).code("UNAUTHORIZED"),
        liar(row("liar_head_blob").head(layer())),
    ]
}

/// A policy of its project lets the manifest not pass.
pub(super) fn of_harbor() -> Vec<Row> {
    let path = || format!("{BLOCKED}/manifests/v1");
    let row = |name| Row::new(name, "dockerd shows Harbor's own words", SPEC_PULL).accept(OCI_MANIFEST);
    vec![
        row("policy_get_manifest").get(path()).status(&[412]).code("PROJECTPOLICYVIOLATION"),
        row("policy_head_manifest").head(path()).status(&[412]),
    ]
}
