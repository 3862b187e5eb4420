//! Whether a reply is as its row wants it, as every reply through a door must be, and as the
//! registry's own.

use std::fmt::Display;

use hyper::Method;
use hyper::header::ETAG;

use super::row::Row;
use super::rows::Registry;
use crate::exchange::{End, Reply};

/// A reply through a door, and what it is held against.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) row: &'a Row,
    pub(super) registry: Registry,
    /// What the door is called.
    pub(super) host: &'a str,
    pub(super) reply: &'a Reply,
    /// What the registry answers when it is asked itself.
    pub(super) direct: Option<&'a Reply>,
}

impl Case<'_> {
    /// What is wrong with the reply, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for expect in &self.row.expects {
            let missed = expect.missed(self.reply);
            faults.extend(missed.map(|got| format!("expected {expect}, got {got}")));
        }
        let how = self.row.docker_registry_fails.filter(|_| self.registry == Registry::DockerRegistry);
        if let Some(how) = how {
            // The door is to do as the registry does, and no better.
            let is_stale = faults.is_empty();
            faults.clear();
            faults.extend(
                is_stale.then(|| format!("expected a registry that fails, as {how}, got one that does not")),
            );
        }
        faults.extend(self.house_rules());
        faults.extend(self.direct.into_iter().flat_map(|direct| self.unlike(direct)));
        faults
    }

    /// What holds for every reply through a door.
    fn house_rules(&self) -> Vec<String> {
        let Reply { status, body, end, .. } = self.reply;
        let mut faults = Vec::new();
        let mut rule = |is_kept: bool, rule: &str, got: &dyn Display| {
            if !is_kept {
                faults.push(format!("expected {rule}, got {got}"));
            }
        };
        let redirects = (300..400).contains(status) && *status != 304;
        rule(!redirects, "no redirect to leave the door", status);
        for name in ["content-encoding", "set-cookie", "strict-transport-security"] {
            let got = self.reply.header(name);
            rule(got.is_none(), &format!("no {name}"), &got.unwrap_or_default());
        }
        let is_head = self.row.request.method == Method::HEAD;
        rule(*end != End::Cut, "a whole body", &"a cut one");
        rule(!is_head || body.is_empty(), "no body to a HEAD", &body.len());
        let length = self.reply.header("content-length").filter(|_| *end == End::Whole && !is_head);
        let is_true = length.is_none_or(|length| *status == 304 || length == body.len().to_string());
        // What was read in parts is several replies in one.
        rule(is_true || self.row.is_many(), "a Content-Length that is true", &length.unwrap_or_default());
        if let Some(realm) = self.realm() {
            let own = format!("http://{}/flotilla/token/", self.host);
            rule(realm.starts_with(&own), "a realm at this door", &realm);
        }
        let by = self.reply.header("flotilla-refused-by").unwrap_or("nobody");
        if *status < 400 {
            rule(by == "nobody", "no word of a refusal", &by);
            return faults;
        }
        rule(matches!(by, "registry" | "seed" | "peer"), "a word of who refuses", &by);
        let is_relayed = by == "registry" && self.direct.is_some_and(|direct| direct.body == *body);
        let text = String::from_utf8_lossy(body);
        rule(is_head || is_relayed || is_oci_error(body), "an error in JSON, or the registry's own", &text);
        faults
    }

    fn realm(&self) -> Option<&str> {
        let challenge = self.reply.header("www-authenticate")?.strip_prefix("Bearer ")?;
        challenge.split_once("realm=\"")?.1.split_once('"').map(|(realm, _)| realm)
    }

    /// Where the reply is not the registry's own.
    fn unlike(&self, direct: &Reply) -> Vec<String> {
        let mut faults = Vec::new();
        let (reply, row) = (self.reply, self.row);
        if reply.status != direct.status {
            faults.push(format!("expected the registry's status {}, got {}", direct.status, reply.status));
        }
        if reply.body != direct.body {
            faults.push(format!("expected the registry's body, of {direct}"));
        }
        let is_success = matches!(reply.status, 200 | 206) && !row.is_many();
        for name in SAME_HEADERS {
            let Some(theirs) = direct.header(name) else { continue };
            let skipped = *name == "content-length" && !is_success
                // An object store has tags of its own.
                || *name == ETAG.as_str() && direct.header("docker-content-digest").is_none();
            let ours = reply.header(name).unwrap_or("none");
            if !skipped && ours != theirs {
                faults.push(format!("expected the registry's {name} {theirs:?}, got {ours:?}"));
            }
        }
        faults
    }
}

/// Whether a body is an error of the distribution spec ("Error Codes").
fn is_oci_error(body: &[u8]) -> bool {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    !errors.is_empty() && errors.iter().all(|error| error["code"].is_string() && error["message"].is_string())
}

/// Headers that are the registry's to say, where it says them.
const SAME_HEADERS: &[&str] = &[
    "content-type",
    "content-length",
    "content-range",
    "docker-content-digest",
    "etag",
    "oci-filters-applied",
    "x-total-count",
];
