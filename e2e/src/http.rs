//! One GET over plain HTTP: enough for a front door, a status page and metrics.
//!
//! HTTP/1.0, so that a body ends with its connection and nothing needs decoding.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// An answer, however its body ended.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    head: String,
    /// What arrived of the body.
    pub body: Vec<u8>,
    /// From the first byte sent to the last received.
    pub took: Duration,
}

/// GETs `http://address:port/path`, waiting at most `timeout` for any byte.
pub fn get(url: &str, timeout: Duration) -> Result<Response> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not plain http"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let start = Instant::now();
    let address = authority.parse().with_context(|| format!("{authority} is no address"))?;
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("connect to {url}"))?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {authority}\r\nAccept: {ACCEPT}\r\n\r\n")?;
    let mut answer = Vec::new();
    // A reset mid-body leaves what came before it, which is what a client would hold.
    let ended = stream.read_to_end(&mut answer);
    let Some(head_len) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        ended.with_context(|| format!("read from {url}"))?;
        anyhow::bail!("{url} closed the connection without an answer");
    };
    let body = answer.split_off(head_len + 4);
    let head = String::from_utf8(answer).context("headers are not text")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("{url} sent no status line"))?;
    Ok(Response { status, head, body, took: start.elapsed() })
}

/// GETs a text that must be there.
pub fn get_text(url: &str) -> Result<String> {
    let response = get(url, Duration::from_secs(10))?;
    ensure!(response.status == 200, "{url} answered {}", response.status);
    String::from_utf8(response.body).with_context(|| format!("{url} is not text"))
}

impl Response {
    /// The header `name` (any case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

/// A registry converts or hides a manifest whose type the caller does not name.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.oci.image.manifest.v1+json, */*";
