//! Lists: tags, and what refers to a manifest.

use serde_json::{Value, json};

use super::super::content::{ARTIFACT_TYPE, Content, OCI_INDEX, REPOSITORY};
use super::super::row::{Act, Expect, Row};
use super::{MAIN, UNKNOWN, WRONG};

pub(super) fn rows(content: &Content) -> Vec<Row> {
    let mut rows = tags(content);
    rows.extend(referrers(content));
    rows
}

/// The spec wants an order; docker-registry 2.8.2 has its storage's.
pub(super) fn in_order(content: &Content) -> Row {
    Row::new("tags_in_order", "pages would overlap otherwise", MAIN)
        .get(format!("{REPOSITORY}/tags/list"))
        .status(&[200])
        .expect(Expect::Json("/tags", json!(content.tags())))
}

fn tags(content: &Content) -> Vec<Row> {
    let tags = content.tags();
    let row =
        |name, why, query: &str| Row::new(name, why, MAIN).get(format!("{REPOSITORY}/tags/list{query}"));
    let lists = |tags: &[&str]| Expect::Json("/tags", json!(tags));
    let fails = "docker-registry 2.8.2 pays no heed to n and last";
    let pages = json!({ "pages": tags.len().div_ceil(2), "tags": tags }).to_string();
    let behind = format!("?n=3&last={}", tags[1]);
    vec![
        row("tags_all", "none is left out", "")
            .status(&[200])
            .expect(Expect::Tags(tags.iter().map(|&tag| tag.to_owned()).collect())),
        row("tags_name", "the repository as the registry knows it", "")
            .status(&[200])
            .expect(Expect::Json("/name", json!(REPOSITORY))),
        row("tags_n", "no more than asked for", "?n=2")
            .status(&[200])
            .expect(lists(&tags[..2]))
            .docker_registry_fails(fails),
        row("tags_last", "those behind one", &behind)
            .status(&[200])
            .expect(lists(&tags[2..5]))
            .docker_registry_fails(fails),
        row("tags_last_of_all", "none is a list", "?n=3&last=zzz")
            .status(&[200])
            .expect(lists(&[]))
            .docker_registry_fails(fails),
        row("tags_pages", "Link leads through the door, to the end", "?n=2")
            .act(Act::Pages)
            .status(&[200])
            .body(pages.as_bytes())
            .docker_registry_fails(fails),
        Row::new("tags_of_unknown", "no repository is no list", MAIN)
            .get("priv/no-such-repository/tags/list")
            .status(&[404]),
    ]
}

fn referrers(content: &Content) -> Vec<Row> {
    let subject = content.image.manifest.digest().to_string();
    let artifact = content.manifest("artifact").blob.digest().to_string();
    let fails = "docker-registry 2.8.2 has no referrers: 404, after which clients try a tag";
    let row = |name, why, reference: &str| {
        Row::new(name, why, MAIN)
            .get(format!("{REPOSITORY}/referrers/{reference}"))
            .docker_registry_fails(fails)
    };
    let index = |row: Row, count: Value| {
        row.status(&[200]).says("content-type", OCI_INDEX).expect(Expect::Json("/manifests", count))
    };
    let filtered = |name, kind: &str| {
        row(name, "the registry says that it chose", &format!("{subject}?artifactType={kind}"))
            .status(&[200])
            .says("oci-filters-applied", "artifactType")
    };
    let is_listed = || Expect::Json("/manifests/0/digest", json!(artifact));
    let none = || Expect::Json("/manifests", json!([]));
    vec![
        index(row("referrers_of_unknown", "nothing is an index too", UNKNOWN), json!([])),
        index(
            row("referrers_of_unknown_by_type", "and so with a type", &format!("{UNKNOWN}?artifactType=a/b")),
            json!([]),
        )
        .says("oci-filters-applied", "artifactType"),
        row("referrers", "what names it as its subject", &subject)
            .status(&[200])
            .says("content-type", OCI_INDEX)
            .expect(is_listed())
            .expect(Expect::NoHeader("oci-filters-applied")),
        filtered("referrers_by_type", ARTIFACT_TYPE).expect(is_listed()),
        filtered("referrers_by_other_type", "application/vnd.test.other").expect(none()),
        row("referrers_of_wrong_digest", "what can be no digest", WRONG).status(&[400]),
    ]
}
