//! One row of the table: what is asked, why, and what must come.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, HeaderName, RANGE};
use serde_json::Value;

use crate::exchange::{Reply, Request};
use crate::image::Blob;

/// A check.
#[derive(Debug)]
pub(super) struct Row {
    /// Said when it fails.
    pub(super) name: String,
    /// What it is good for.
    pub(super) why: &'static str,
    /// A section of the distribution spec or of an RFC, or a case of one of the suites.
    pub(super) reference: &'static str,
    /// How often the request is made.
    pub(super) act: Act,
    /// Its path is what stands behind `/v2/` at the registry.
    pub(super) request: Request,
    pub(super) who: Who,
    /// What must come, whatever the registry is.
    pub(super) expects: Vec<Expect>,
    /// Why the door need not answer as the registry does when it is asked directly.
    pub(super) differs: Option<&'static str>,
    /// Why docker-registry's answer is not as expected. The door's is the same then.
    pub(super) docker_registry_fails: Option<&'static str>,
}

/// What is done with a row's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// It is made once.
    Once,
    /// And the pages that `Link` leads to are read, to the last. The reply's body is the number
    /// of pages and all tags.
    Pages,
    /// A blob of so many bytes is read by several workers in chunks: each asks for all that
    /// follows, reads its chunk and hangs up. The reply's body is the chunks together.
    Chunks(usize),
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// Whom the registry lets in.
    Holder,
    /// Without a credential.
    Nobody,
    /// With a wrong password.
    Liar,
    /// With this value of `Authorization`.
    Showing(String),
}

/// Something about a reply.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expect {
    Status(&'static [u16]),
    /// Byte for byte.
    Body(Bytes),
    /// Runs of a blob: `Content-Range`, and the bytes.
    Parts(Vec<(String, Bytes)>),
    /// The stated length.
    Length(u64),
    Header(&'static str, String),
    NoHeader(&'static str),
    /// The code of an error's body.
    Code(&'static str),
    /// The scheme of a challenge.
    Challenge(&'static str),
    /// A value in a JSON body, by its pointer.
    Json(&'static str, Value),
    /// Tags, in any order.
    Tags(BTreeSet<String>),
}

impl Row {
    pub(super) fn new(name: impl Into<String>, why: &'static str, reference: &'static str) -> Self {
        Self {
            name: name.into(),
            why,
            reference,
            act: Act::Once,
            request: Request::new(Method::GET, ""),
            who: Who::Holder,
            expects: Vec::new(),
            differs: None,
            docker_registry_fails: None,
        }
    }

    /// Whether its reply is put together from several.
    pub(super) fn is_many(&self) -> bool {
        match self.act {
            Act::Once => false,
            Act::Pages | Act::Chunks(_) => true,
        }
    }

    pub(super) fn get(mut self, path: impl Into<String>) -> Self {
        self.request.path = path.into();
        self
    }

    pub(super) fn head(self, path: impl Into<String>) -> Self {
        self.method(Method::HEAD, path)
    }

    pub(super) fn method(mut self, method: Method, path: impl Into<String>) -> Self {
        self.request.method = method;
        self.get(path)
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(super) fn accept(self, value: &str) -> Self {
        self.header(ACCEPT, value)
    }

    pub(super) fn range(self, value: &str) -> Self {
        self.header(RANGE, value)
    }

    pub(super) fn act(self, act: Act) -> Self {
        Self { act, ..self }
    }

    pub(super) fn who(self, who: Who) -> Self {
        Self { who, ..self }
    }

    pub(super) fn differs(self, why: &'static str) -> Self {
        Self { differs: Some(why), ..self }
    }

    pub(super) fn docker_registry_fails(self, how: &'static str) -> Self {
        Self { docker_registry_fails: Some(how), ..self }
    }

    pub(super) fn expect(mut self, expect: Expect) -> Self {
        self.expects.push(expect);
        self
    }

    pub(super) fn status(self, status: &'static [u16]) -> Self {
        self.expect(Expect::Status(status))
    }

    pub(super) fn code(self, code: &'static str) -> Self {
        self.expect(Expect::Code(code))
    }

    pub(super) fn body(self, body: &[u8]) -> Self {
        self.expect(Expect::Body(Bytes::copy_from_slice(body)))
    }

    pub(super) fn says(self, name: &'static str, value: impl Into<String>) -> Self {
        self.expect(Expect::Header(name, value.into()))
    }

    pub(super) fn challenge(self, scheme: &'static str) -> Self {
        self.expect(Expect::Challenge(scheme))
    }

    /// 200, with the stated length and digest of `blob`, and with its bytes unless it is a HEAD.
    pub(super) fn whole(self, blob: &Blob) -> Self {
        let row = self.status(&[200]).expect(Expect::Length(blob.size()));
        let row = row.says("docker-content-digest", blob.digest().to_string());
        if row.request.method == Method::HEAD { row } else { row.body(blob.content()) }
    }

    /// 206, with the bytes `from` to `to` of `blob`, the last one included.
    pub(super) fn part(self, blob: &Blob, from: usize, to: usize) -> Self {
        self.status(&[206])
            .expect(Expect::Length((to - from + 1) as u64))
            .says("content-range", format!("bytes {from}-{to}/{}", blob.size()))
            .body(&blob.content()[from..=to])
    }

    /// 206, with these runs of `blob`, first and last byte of each included, as `multipart/byteranges`.
    pub(super) fn parts(self, blob: &Blob, parts: &[(usize, usize)]) -> Self {
        let part = |(from, to): &(usize, usize)| {
            let range = format!("bytes {from}-{to}/{}", blob.size());
            (range, Bytes::copy_from_slice(&blob.content()[*from..=*to]))
        };
        self.status(&[206]).expect(Expect::Parts(parts.iter().map(part).collect()))
    }
}

impl Expect {
    /// What came instead, if it did not come.
    pub(super) fn missed(&self, reply: &Reply) -> Option<String> {
        match self {
            Self::Status(wanted) => other(wanted.contains(&reply.status), reply.status),
            Self::Body(wanted) => {
                let begins = wanted.iter().zip(&reply.body).take_while(|(one, other)| one == other).count();
                let got = format!("{} bytes of which the first {begins} are right", reply.body.len());
                other(*wanted == reply.body, got)
            }
            Self::Parts(wanted) => match parts(reply) {
                Some(got) => other(got == *wanted, format!("{got:?}")),
                None => Some("no multipart/byteranges".to_owned()),
            },
            Self::Length(wanted) => {
                let got = reply.header("content-length").unwrap_or("none");
                other(got == wanted.to_string(), got)
            }
            Self::Header(name, wanted) => {
                let got = reply.header(name);
                other(got == Some(wanted), got.unwrap_or("none"))
            }
            Self::NoHeader(name) => reply.header(name).map(str::to_owned),
            Self::Code(wanted) => {
                let got = json(reply).and_then(|body| Some(body["errors"][0]["code"].as_str()?.to_owned()));
                other(got.as_deref() == Some(wanted), got.as_deref().unwrap_or("none"))
            }
            Self::Challenge(scheme) => {
                let got = reply.header("www-authenticate").unwrap_or("none");
                other(got.starts_with(scheme), got)
            }
            Self::Tags(wanted) => {
                let body = json(reply).unwrap_or_default();
                let tags = body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let got: BTreeSet<_> = tags.map(str::to_owned).collect();
                other(got == *wanted, format!("{got:?}"))
            }
            Self::Json(pointer, wanted) => {
                let got = json(reply).and_then(|body| body.pointer(pointer).cloned()).unwrap_or_default();
                other(got == *wanted, got)
            }
        }
    }
}

/// The `Content-Range` and the bytes of each part (RFC 9110 §14.6; RFC 2046 §5.1.1).
fn parts(reply: &Reply) -> Option<Vec<(String, Bytes)>> {
    let boundary = reply.header("content-type")?.strip_prefix("multipart/byteranges; boundary=")?;
    let delimiter = format!("--{}", boundary.trim_matches('"'));
    let mut starts = find_all(&reply.body, delimiter.as_bytes()).into_iter().peekable();
    let mut parts = Vec::new();
    while let (Some(start), Some(end)) = (starts.next(), starts.peek()) {
        // A line's end belongs to the delimiter behind it.
        let part = reply.body.slice(start + delimiter.len()..end - 2);
        let head_len = *find_all(&part, b"\r\n\r\n").first()?;
        let head = std::str::from_utf8(&part[..head_len]).ok()?;
        let range = head.lines().find_map(|line| line.strip_prefix("Content-Range: "))?;
        parts.push((range.to_owned(), part.slice(head_len + 4..)));
    }
    Some(parts)
}

/// Where `needle` stands in `bytes`.
fn find_all(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let found = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    found.map(|(at, _)| at).collect()
}

fn other(is_right: bool, got: impl fmt::Display) -> Option<String> {
    (!is_right).then(|| got.to_string())
}

fn json(reply: &Reply) -> Option<Value> {
    serde_json::from_slice(&reply.body).ok()
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(wanted) => write!(f, "status {wanted:?}"),
            Self::Body(wanted) => write!(f, "a body of {} bytes", wanted.len()),
            Self::Parts(wanted) => write!(f, "{} parts", wanted.len()),
            Self::Length(wanted) => write!(f, "Content-Length {wanted}"),
            Self::Header(name, wanted) => write!(f, "{name}: {wanted}"),
            Self::NoHeader(name) => write!(f, "no {name}"),
            Self::Code(wanted) => write!(f, "the error code {wanted}"),
            Self::Challenge(scheme) => write!(f, "a challenge of {scheme}"),
            Self::Json(pointer, wanted) => write!(f, "{wanted} at {pointer}"),
            Self::Tags(wanted) => write!(f, "the tags {wanted:?}"),
        }
    }
}
