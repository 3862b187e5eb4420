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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::HeaderMap;
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_right_reply_has_no_fault() {
        assert_eq!(faults(&row(), &good(), &good()), Vec::<String>::new());
    }

    #[test]
    fn what_no_door_may_say_is_a_fault_even_if_the_registry_says_it() {
        for (name, value) in [
            ("content-encoding", "gzip"),
            ("set-cookie", "sid=1"),
            ("strict-transport-security", "max-age=1"),
            ("flotilla-refused-by", "peer"),
            ("content-length", "5"),
            ("www-authenticate", "Bearer realm=\"https://harbor.test/service/token\""),
        ] {
            let bad = with(good(), name, value);
            assert_eq!(faults(&row(), &bad, &bad).len(), 1, "{name}");
        }
        let cut = Reply { end: End::Cut, ..good() };
        assert_eq!(faults(&row(), &cut, &cut).len(), 1);
        let redirect = Reply { status: 307, ..good() };
        assert_eq!(faults(&row().status(&[307]), &redirect, &redirect).len(), 1);
    }

    #[test]
    fn a_refusal_says_whose_it_is_in_json_or_in_the_registrys_words() {
        let row = || Row::new("row", "why", "where").status(&[404]);
        let refusal = |by, body: &'static str| {
            let reply = Reply { status: 404, headers: HeaderMap::new(), ..good() };
            Reply { body: Bytes::from_static(body.as_bytes()), ..with(reply, "flotilla-refused-by", by) }
        };
        let json = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"none"}]}"#;
        assert!(faults(&row(), &refusal("registry", json), &refusal("", json)).is_empty());
        assert!(faults(&row(), &refusal("registry", "404"), &refusal("", "404")).is_empty());
        assert_eq!(faults(&row(), &refusal("peer", "404"), &refusal("", "404")).len(), 1);
        assert_eq!(faults(&row(), &refusal("nobody", json), &refusal("", json)).len(), 1);
        assert_eq!(faults(&row(), &refusal("registry", json), &refusal("", "404")).len(), 1);
    }

    #[test]
    fn a_reply_that_is_not_the_registrys_is_a_fault() {
        let direct = Reply { status: 206, ..with(good(), "etag", "\"a\"") };
        let direct = with(direct, "docker-content-digest", "sha256:0");
        assert_eq!(faults(&row(), &good(), &direct).len(), 3, "status, tag and digest");
        let other = Reply { body: Bytes::from_static(b"LAYER!"), ..good() };
        assert_eq!(faults(&row(), &good(), &other).len(), 1);
    }

    #[test]
    fn a_registry_that_has_learned_is_told_from_one_that_fails() {
        let row = row().docker_registry_fails("it gives other bytes");
        let judged = |reply: &Reply| {
            let registry = Registry::DockerRegistry;
            Case { row: &row, registry, host: "door", reply, direct: Some(reply) }.faults()
        };
        assert_eq!(judged(&good()).len(), 1);
        assert!(judged(&Reply { body: Bytes::from_static(b"LAYER!"), ..good() }).is_empty());
    }

    fn row() -> Row {
        Row::new("row", "why", "where").body(b"layer!")
    }

    fn good() -> Reply {
        let body = Bytes::from_static(b"layer!");
        let reply = Reply { status: 200, headers: HeaderMap::new(), body, end: End::Whole };
        with(reply, "content-length", "6")
    }

    fn with(mut reply: Reply, name: &'static str, value: &'static str) -> Reply {
        reply.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        reply
    }

    fn faults(row: &Row, reply: &Reply, direct: &Reply) -> Vec<String> {
        Case { row, registry: Registry::Harbor, host: "door", reply, direct: Some(direct) }.faults()
    }
}
