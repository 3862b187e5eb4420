//! One column of the table: a way to the registry, with a credential.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE, USER_AGENT};
use serde_json::{Value, json};

use super::content::REPOSITORY;
use super::row::{Act, Row, Who};
use crate::exchange::{Reply, Request, Server};
use crate::stage::{REGISTRY_HOST, STORAGE_HOST};

/// A way, and who goes it.
#[derive(Debug)]
pub(super) struct Column<'a> {
    pub(super) name: String,
    way: Way<'a>,
    server: Server<'a>,
    account: Option<Account>,
    /// By repository, each had from the token service that the registry or the door names.
    token_by_repository: BTreeMap<String, String>,
}

/// How the registry is reached.
#[derive(Debug)]
pub(super) enum Way<'a> {
    /// The registry itself, and its object store, if it has one.
    Direct(Option<Server<'a>>),
    Mirror,
    Prefix,
}

/// Name and password, and what is done with them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) name: &'static str,
    pub(super) password: &'static str,
    /// Shown with each request, or to a token service once.
    pub(super) by_token: bool,
}

impl<'a> Column<'a> {
    /// The way with that credential; `repositories` are those that tokens are asked for.
    pub(super) fn new(
        way: Way<'a>,
        server: Server<'a>,
        account: Option<Account>,
        repositories: &[&str],
    ) -> Result<Self> {
        let name = match (way.name(), account) {
            (way, None) => way.to_owned(),
            (way, Some(Account { by_token: false, .. })) => format!("{way} basic"),
            (way, Some(Account { by_token: true, .. })) => format!("{way} token"),
        };
        let mut column = Self { name, way, server, account, token_by_repository: BTreeMap::new() };
        if let Some(account) = account.filter(|account| account.by_token) {
            for repository in repositories {
                let token = column.token(repository, account).context(column.name.clone())?;
                column.token_by_repository.insert((*repository).to_owned(), token);
            }
        }
        Ok(column)
    }

    /// What the door or the registry is called.
    pub(super) fn host(&self) -> &str {
        self.server.host()
    }

    /// Does what a row says.
    pub(super) fn run(&self, row: &Row) -> Result<Reply> {
        match row.act {
            Act::Once => self.ask(&row.request, &row.who),
            Act::Pages => self.pages(&row.request),
            Act::Chunks(size) => self.chunks(&row.request, size),
        }
    }

    /// The request as it goes over this way.
    pub(super) fn on_the_way(&self, request: &Request, who: &Who) -> Request {
        let path = match &self.way {
            Way::Direct(_) => format!("/v2/{}", request.path),
            Way::Prefix if request.path.is_empty() => "/v2/".to_owned(),
            Way::Prefix => format!("/v2/{REGISTRY_HOST}/{}", request.path),
            Way::Mirror => {
                let joined = if request.path.contains('?') { '&' } else { '?' };
                format!("/v2/{}{joined}ns={REGISTRY_HOST}", request.path)
            }
        };
        self.with_credential(Request { path, ..request.clone() }, &request.path, who)
    }

    fn ask(&self, request: &Request, who: &Who) -> Result<Reply> {
        self.send(&self.on_the_way(request, who))
    }

    /// Asks, and once more where a registry sends its callers to its object store.
    fn send(&self, request: &Request) -> Result<Reply> {
        let reply = self.server.ask(request)?;
        let Way::Direct(Some(store)) = &self.way else { return Ok(reply) };
        let Some(place) = reply.header(LOCATION.as_str()).filter(|_| reply.status == 307) else {
            return Ok(reply);
        };
        let path = place.strip_prefix(&format!("https://{STORAGE_HOST}")).context("another object store")?;
        let mut stored = Request { path: path.to_owned(), ..request.clone() };
        stored.headers.remove(AUTHORIZATION);
        store.ask(&stored)
    }

    fn with_credential(&self, request: Request, path: &str, who: &Who) -> Request {
        let request = request.header(USER_AGENT, "conformance/1");
        let request = if request.headers.contains_key(ACCEPT_ENCODING) {
            request
        } else {
            request.header(ACCEPT_ENCODING, "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")
        };
        let credential = match (who, self.account) {
            (Who::Showing(credential), _) => credential.clone(),
            (Who::Nobody, _) | (Who::Holder | Who::Liar, None) => return request,
            (Who::Liar, Some(account)) => basic(account.name, "not the password"),
            (Who::Holder, Some(account)) if account.by_token => format!("Bearer {}", self.token_for(path)),
            (Who::Holder, Some(account)) => basic(account.name, account.password),
        };
        request.header(AUTHORIZATION, &credential)
    }

    /// `/v2/` is open to whom any repository is.
    fn token_for(&self, path: &str) -> &str {
        let named = self.token_by_repository.keys().find(|name| path.starts_with(&format!("{name}/")));
        &self.token_by_repository[named.map_or(REPOSITORY, String::as_str)]
    }

    /// Goes the way that a 401 shows: to the realm, which is on the same host, for a token.
    fn token(&self, repository: &str, account: Account) -> Result<String> {
        let refused =
            self.ask(&Request::new(Method::GET, format!("{repository}/tags/list")), &Who::Nobody)?;
        let challenge = refused.header("www-authenticate").context("no challenge")?;
        let field = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let realm = field("realm").context("no realm")?;
        let path = realm.split_once("://").and_then(|(_, rest)| rest.strip_prefix(self.host()));
        let path = path.with_context(|| format!("the realm {realm} is not on {}", self.host()))?;
        let (service, scope) = (field("service").context("no service")?, field("scope").context("no scope")?);
        let request = Request::new(Method::GET, format!("{path}?service={service}&scope={scope}"));
        let reply =
            self.server.ask(&request.header(AUTHORIZATION, &basic(account.name, account.password)))?;
        let answer: Value = serde_json::from_slice(&reply.body).with_context(|| reply.to_string())?;
        Ok(answer["token"].as_str().with_context(|| format!("no token: {reply}"))?.to_owned())
    }

    fn pages(&self, request: &Request) -> Result<Reply> {
        let mut next = self.on_the_way(request, &Who::Holder);
        let (mut pages, mut tags) = (0, Vec::new());
        loop {
            let mut reply = self.send(&next)?;
            if reply.status != 200 {
                return Ok(reply);
            }
            let page: Value = serde_json::from_slice(&reply.body)?;
            tags.extend(page["tags"].as_array().into_iter().flatten().cloned());
            pages += 1;
            ensure!(pages < MAX_PAGES, "the pages do not end: {tags:?}");
            let link = reply.header("link").and_then(|link| link.strip_prefix('<')?.split_once('>'));
            let Some((page, _)) = link else {
                reply.body = json!({ "pages": pages, "tags": tags }).to_string().into();
                return Ok(reply);
            };
            next.path = page.to_owned();
        }
    }

    fn chunks(&self, request: &Request, size: usize) -> Result<Reply> {
        let starts = Mutex::new((0..size).step_by(CHUNK_LEN).rev().collect::<Vec<_>>());
        let read = Mutex::new(BTreeMap::new());
        let work = || -> Result<()> {
            loop {
                let Some(start) = starts.lock().expect("no worker panics").pop() else { return Ok(()) };
                let reply = self.chunk(request, start, size)?;
                read.lock().expect("no worker panics").insert(start, reply);
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let mut ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
            ended.try_for_each(|ended| ended.map_err(|_| anyhow!("a worker panicked"))?)
        })?;
        let replies = read.into_inner().expect("no worker panics");
        let chunk = |(start, reply): (&usize, &Reply)| reply.body.slice(..CHUNK_LEN.min(size - start));
        let body: Vec<u8> = replies.iter().flat_map(chunk).collect();
        let first = replies.into_values().next().context("a blob without a chunk")?;
        Ok(Reply { body: Bytes::from(body), ..first })
    }

    fn chunk(&self, request: &Request, start: usize, size: usize) -> Result<Reply> {
        let request = request.clone().header(RANGE, &format!("bytes={start}-"));
        let reply = self.ask(&Request { leave_after: Some(CHUNK_LEN), ..request }, &Who::Holder)?;
        let range = format!("bytes {start}-{}/{size}", size - 1);
        let is_right = reply.status == 206 && reply.header("content-range") == Some(&range);
        let is_enough = reply.body.len() >= CHUNK_LEN.min(size - start);
        ensure!(is_right && is_enough, "a chunk of {range} is answered {reply}");
        Ok(reply)
    }
}

impl Way<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Direct(_) => "direct",
            Self::Mirror => "mirror",
            Self::Prefix => "prefix",
        }
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

const MAX_PAGES: usize = 20;
/// What containerd reads of one connection: less than a piece, and no part of one evenly.
const CHUNK_LEN: usize = 200_000;
const WORKERS: usize = 4;
