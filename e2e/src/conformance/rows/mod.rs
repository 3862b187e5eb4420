//! The table's rows: every check of the pull and content-discovery workflows of both of the
//! distribution spec's conformance suites (the Ginkgo one of v1.1.1, and the one made anew that
//! is on main), and what clients rely on besides.

mod blobs;
mod discovery;
mod manifests;
mod ranges;
mod refusals;

use super::content::{Content, REPOSITORY};
use super::row::Row;
use crate::image::Blob;

/// What rows are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) content: &'a Content,
    pub(super) registry: Registry,
    /// What comes to whom it does not know.
    pub(super) challenge: Option<&'static str>,
    /// The column's blob that no manifest names.
    pub(super) loose: &'a Blob,
}

/// Which registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Registry {
    Harbor,
    DockerRegistry,
}

/// All rows, in the order in which they are asked.
pub(super) fn all(subject: Subject<'_>) -> Vec<Row> {
    let content = subject.content;
    let mut rows = ranges::first(subject.loose);
    rows.extend(blobs::rows(content));
    rows.extend(ranges::rows(content));
    rows.extend(manifests::rows(content));
    rows.extend(discovery::rows(content));
    rows.extend(refusals::rows(content));
    if let Some(challenge) = subject.challenge {
        rows.extend(refusals::private(content, challenge));
    }
    if subject.registry == Registry::Harbor {
        rows.push(discovery::in_order(content));
        rows.extend(refusals::of_harbor());
    }
    rows
}

fn blob(blob: &Blob) -> String {
    format!("{REPOSITORY}/blobs/{}", blob.digest())
}

fn manifest(reference: impl std::fmt::Display) -> String {
    format!("{REPOSITORY}/manifests/{reference}")
}

/// In the first suite.
const V1: &str = "v1.1.1 conformance/01_pull_test.go";
/// In the second suite.
const MAIN: &str = "main conformance/run.go";
const SPEC_PULL: &str = "spec.md, Pulling manifests; Pulling blobs";
const RFC_RANGE: &str = "RFC 9110 §14";
/// A digest of nothing there is.
const UNKNOWN: &str = "sha256:c0ffee0000000000000000000000000000000000000000000000000000000000";
/// One that can be none.
const WRONG: &str = "sha256:totallywrong";
