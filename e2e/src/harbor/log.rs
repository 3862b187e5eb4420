//! What the fake was asked: one entry per request, in the order they came.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use flotilla_proto::Digest;

use super::call::{Call, Credential, Host};
use super::token;
use crate::access_log::{self, AccessLog, BlobReads};
use crate::image::Image;

/// Requests, in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestLog {
    /// One per request.
    pub requests: Vec<Request>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which connection it came on; the numbers of both hosts are apart.
    pub connection: u64,
    /// The host that was asked.
    pub server: Host,
    /// The address it came from.
    pub remote: IpAddr,
    /// `GET`, `HEAD` and so on.
    pub method: String,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// The answer's status code; 0 until it begins.
    pub status: u16,
    /// Who it came from, by its own word.
    pub auth: Auth,
    /// The `Range` header.
    pub range: Option<String>,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// What the caller calls itself.
    pub user_agent: String,
    /// Whether nothing more comes of it.
    pub ended: bool,
}

/// What an `Authorization` header says, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// There is none.
    Anonymous,
    /// The name that was given with a password, right or wrong.
    Basic(String),
    /// The subject of a token, good or not; empty if nobody's, `?` if it is no token of ours.
    Bearer(String),
    /// Something else.
    Unreadable,
}

/// The log while it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<Request>>>);

/// One request that has not ended; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    journal: Journal,
    index: usize,
}

impl RequestLog {
    /// What came after `earlier`, a log of the same Harbor.
    pub fn since(&self, earlier: &Self) -> Self {
        Self { requests: self.requests[earlier.requests.len()..].to_vec() }
    }

    /// The requests that came from `remote`.
    pub fn from(&self, remote: IpAddr) -> Self {
        self.filter(|request| request.remote == remote)
    }

    /// The requests to one of the hosts.
    pub fn to(&self, server: Host) -> Self {
        self.filter(|request| request.server == server)
    }

    /// The requests that `wanted` says yes to.
    pub fn filter(&self, wanted: impl Fn(&Request) -> bool) -> Self {
        Self { requests: self.requests.iter().filter(|request| wanted(request)).cloned().collect() }
    }

    /// The same requests in the form that both kinds of origin share.
    pub fn access_log(&self) -> AccessLog {
        AccessLog { requests: self.requests.iter().map(Request::for_access_log).collect() }
    }

    /// How often and how far each blob was read, from either host.
    pub fn blob_reads(&self) -> BTreeMap<Digest, BlobReads> {
        self.access_log().blob_reads()
    }

    /// See [`AccessLog::assert_each_blob_read_once`].
    pub fn assert_each_blob_read_once(&self, image: &Image) -> Result<()> {
        self.access_log().assert_each_blob_read_once(image)
    }

    /// See [`AccessLog::assert_no_blob_read`].
    pub fn assert_no_blob_read(&self) -> Result<()> {
        self.access_log().assert_no_blob_read()
    }
}

impl Request {
    fn for_access_log(&self) -> access_log::Request {
        access_log::Request {
            remote: self.remote,
            method: self.method.clone(),
            path: self.path.clone(),
            status: self.status,
            bytes: self.bytes,
            user_agent: self.user_agent.clone(),
        }
    }
}

impl fmt::Display for RequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.requests.iter().try_for_each(|request| writeln!(f, "{request}"))
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, remote, method, host, path, status, auth, bytes, user_agent, .. } = self;
        let range = self.range.as_deref().unwrap_or("-");
        let end = if self.ended { "" } else { " (not ended)" };
        write!(f, "#{connection} {remote} {method} {host}{path} {status} {auth} {range} {bytes} B ")?;
        write!(f, "{user_agent:?}{end}")
    }
}

impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Basic(name) => write!(f, "basic:{name}"),
            Self::Bearer(subject) => write!(f, "bearer:{subject}"),
            Self::Unreadable => f.write_str("unreadable"),
        }
    }
}

impl Auth {
    fn of(call: &Call) -> Self {
        match call.credential() {
            Credential::None => Self::Anonymous,
            Credential::Basic { name, .. } => Self::Basic(name),
            Credential::Bearer(token) => {
                Self::Bearer(token::read(token).map_or_else(|| "?".to_owned(), |claims| claims.sub))
            }
            Credential::Unreadable => Self::Unreadable,
        }
    }
}

impl Journal {
    pub(super) fn begin(&self, call: &Call, connection: u64, remote: IpAddr) -> Entry {
        let text = |name| call.header(name).map(str::to_owned);
        let query = if call.query.is_empty() { String::new() } else { format!("?{}", call.query) };
        let request = Request {
            connection,
            server: call.host,
            remote,
            method: call.method.to_string(),
            host: text("host").unwrap_or_default(),
            path: format!("{}{query}", call.path),
            status: 0,
            auth: Auth::of(call),
            range: text("range"),
            bytes: 0,
            user_agent: text("user-agent").unwrap_or_default(),
            ended: false,
        };
        let mut requests = self.requests();
        requests.push(request);
        Entry { journal: self.clone(), index: requests.len() - 1 }
    }

    pub(super) fn log(&self) -> RequestLog {
        RequestLog { requests: self.requests().clone() }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests().iter().all(|request| request.ended)
    }

    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.0.lock().expect("no holder panics")
    }
}

impl Entry {
    pub(super) fn status(&self, status: u16) {
        self.journal.requests()[self.index].status = status;
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.journal.requests()[self.index].bytes += bytes as u64;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.journal.requests()[self.index].ended = true;
    }
}
