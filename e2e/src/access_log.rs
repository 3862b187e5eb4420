//! What the registry itself says it was asked and how many bytes it sent.
//!
//! Debian's `docker-registry` writes one line a request, in the combined log format, when
//! the request ends. `bytes` are those of the response's body that were handed to the
//! kernel: an aborted response counts with what had been sent.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use flotilla_proto::Digest;

use crate::image::Image;

/// The requests of a span of time, in the order they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// One per request.
    pub requests: Vec<Request>,
}

/// One request as the registry saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The address it came from.
    pub remote: IpAddr,
    /// `GET`, `HEAD` and so on.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The answer's status code.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// What the caller calls itself.
    pub user_agent: String,
}

/// The reads of one blob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlobReads {
    /// GETs answered with 200 or 206.
    pub requests: u64,
    /// Their bodies' bytes, probes apart.
    pub bytes: u64,
    /// Among them those of one byte, `Range: bytes=0-0`, which ask for permission only.
    pub probes: u64,
}

impl AccessLog {
    /// Reads the log at `path`, without the first `skipped` lines and without a last line
    /// that is still being written.
    pub fn read(path: &Path, skipped: usize) -> Result<Self> {
        let text = fs::read_to_string(path).context("read access log")?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let requests = whole
            .lines()
            .skip(skipped)
            .map(|line| Request::parse(line).with_context(|| format!("not a line of an access log: {line}")));
        Ok(Self { requests: requests.collect::<Result<_>>()? })
    }

    /// The requests that came from `remote`.
    pub fn from(&self, remote: IpAddr) -> Self {
        let requests = self.requests.iter().filter(|request| request.remote == remote);
        Self { requests: requests.cloned().collect() }
    }

    /// How often and how far each blob was read.
    pub fn blob_reads(&self) -> BTreeMap<Digest, BlobReads> {
        let mut reads_by_digest = BTreeMap::<_, BlobReads>::new();
        for request in &self.requests {
            let Some(digest) = request.blob_read() else { continue };
            let reads = reads_by_digest.entry(digest).or_default();
            reads.requests += 1;
            if request.is_probe() {
                reads.probes += 1;
            } else {
                reads.bytes += request.bytes;
            }
        }
        reads_by_digest
    }

    /// Fails unless each blob of `image` was read whole, and once: at least its size, at
    /// most 1 % more.
    pub fn assert_each_blob_read_once(&self, image: &Image) -> Result<()> {
        let reads_by_digest = self.blob_reads();
        for blob in image.blobs() {
            let reads = reads_by_digest.get(&blob.digest()).copied().unwrap_or_default();
            let size = blob.size();
            ensure!(
                reads.bytes >= size && reads.bytes * 100 <= size * 101,
                "the registry sent {} bytes of {} ({size} bytes) in {} reads and {} probes",
                reads.bytes,
                blob.digest(),
                reads.requests,
                reads.probes,
            );
        }
        Ok(())
    }

    /// Fails if any byte of a blob was read, probes apart.
    pub fn assert_no_blob_read(&self) -> Result<()> {
        for (digest, reads) in self.blob_reads() {
            ensure!(reads.bytes == 0, "the registry sent {} bytes of {digest}", reads.bytes);
        }
        Ok(())
    }
}

impl Request {
    fn parse(line: &str) -> Option<Self> {
        let mut quoted = line.split('"');
        let (origin, call, answer) = (quoted.next()?, quoted.next()?, quoted.next()?);
        let (_referrer, _blank, user_agent) = (quoted.next()?, quoted.next()?, quoted.next()?);
        let mut call = call.split(' ');
        let mut answer = answer.split_whitespace();
        Some(Self {
            remote: origin.split(' ').next()?.parse().ok()?,
            method: call.next()?.to_owned(),
            path: call.next()?.to_owned(),
            status: answer.next()?.parse().ok()?,
            bytes: answer.next()?.parse().ok()?,
            user_agent: user_agent.to_owned(),
        })
    }

    /// The digest, if the request read a blob: from the registry, or from the object store
    /// that it sends its callers to.
    fn blob_read(&self) -> Option<Digest> {
        if self.method != "GET" || !matches!(self.status, 200 | 206) {
            return None;
        }
        let path = self.path.split('?').next()?;
        if let Some(rest) = path.strip_prefix(STORED_BLOBS) {
            let hex = rest.strip_suffix("/data")?.split('/').next_back()?;
            return format!("sha256:{hex}").parse().ok();
        }
        let (_, digest) = path.strip_prefix("/v2/")?.split_once("/blobs/")?;
        digest.parse().ok()
    }

    fn is_probe(&self) -> bool {
        self.status == 206 && self.bytes <= 1
    }
}

/// Where the object store keeps blobs: `<first two digits>/<hex>/data` below it.
pub(crate) const STORED_BLOBS: &str = "/docker/registry/v2/blobs/sha256/";

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::image::{Format, ImageSpec};

    #[test]
    fn a_line_tells_who_asked_for_what_and_how_much_was_sent() {
        let log = read(&[&line("GET", "/v2/team/app/manifests/v1?ns=x", 200, 1234)]);
        let request = Request {
            remote: [10, 99, 0, 2].into(),
            method: "GET".to_owned(),
            path: "/v2/team/app/manifests/v1?ns=x".to_owned(),
            status: 200,
            bytes: 1234,
            user_agent: "docker/20.10 UpstreamClient(x y)".to_owned(),
        };
        assert_eq!(log, AccessLog { requests: vec![request] });
    }

    #[test]
    fn a_line_still_being_written_is_left_for_the_next_look() {
        let file = write(&[&line("GET", "/v2/", 200, 2), "10.99.0.2 - - [21/Nov"]);
        let text = fs::read_to_string(file.path()).unwrap();
        fs::write(file.path(), text.trim_end()).unwrap();
        assert_eq!(AccessLog::read(file.path(), 0).unwrap().requests.len(), 1);
        assert_eq!(AccessLog::read(file.path(), 1).unwrap().requests.len(), 0);
    }

    #[test]
    fn a_line_of_another_kind_is_an_error_and_not_a_missing_request() {
        let file = write(&["panic: runtime error"]);
        assert!(AccessLog::read(file.path(), 0).is_err());
    }

    #[test]
    fn only_answered_gets_of_blobs_count_and_probes_count_apart() {
        let digest = Digest::of(b"layer");
        let blob = format!("/v2/team/app/blobs/{digest}");
        let log = read(&[
            &line("HEAD", &blob, 200, 0),
            &line("GET", &blob, 404, 157),
            &line("GET", &blob, 206, 1),
            &line("GET", &blob, 206, 400),
            &line("GET", &blob, 200, 600),
            &line("GET", &format!("/v2/team/app/manifests/{digest}"), 200, 1000),
        ]);
        let reads = BlobReads { requests: 3, bytes: 1000, probes: 1 };
        assert_eq!(log.blob_reads(), BTreeMap::from([(digest, reads)]));
        assert!(log.assert_no_blob_read().is_err());
    }

    #[test]
    fn a_read_from_the_object_store_is_a_read_of_its_blob() {
        let digest = Digest::of(b"layer");
        let hex = digest.hex();
        let stored = format!("/docker/registry/v2/blobs/sha256/{}/{hex}/data?Expires=1200", &hex[..2]);
        let log = read(&[
            &line("GET", &format!("/v2/team/app/blobs/{digest}"), 307, 300),
            &line("GET", &stored, 200, 1000),
        ]);
        let reads = BlobReads { requests: 1, bytes: 1000, probes: 0 };
        assert_eq!(log.blob_reads(), BTreeMap::from([(digest, reads)]));
    }

    #[test]
    fn once_means_neither_twice_nor_half_nor_never() {
        let image = ImageSpec { format: Format::Oci, layer_lens: vec![4000, 10] }.build("team/app", 1);
        let once: Vec<_> = image.blobs().map(|blob| read_of(blob.digest(), blob.size())).collect();
        assert!(read(&once).assert_each_blob_read_once(&image).is_ok());
        assert!(read(&once[1..]).assert_each_blob_read_once(&image).is_err());
        assert!(read(&[&once[..], &once[..1]].concat()).assert_each_blob_read_once(&image).is_err());

        let first = image.blobs().next().unwrap();
        let half = [&[read_of(first.digest(), first.size() / 2)], &once[1..]].concat();
        assert!(read(&half).assert_each_blob_read_once(&image).is_err());
    }

    #[test]
    fn requests_are_told_apart_by_where_they_came_from() {
        let log = read(&[&line("GET", "/v2/", 200, 2)]);
        assert_eq!(log.from([10, 99, 0, 2].into()).requests.len(), 1);
        assert_eq!(log.from([10, 99, 0, 1].into()).requests.len(), 0);
    }

    fn read_of(digest: Digest, bytes: u64) -> String {
        line("GET", &format!("/v2/team/app/blobs/{digest}"), 200, bytes)
    }

    fn line(method: &str, path: &str, status: u16, bytes: u64) -> String {
        format!(
            "10.99.0.2 - - [21/Nov/2026:12:51:40 +0000] \"{method} {path} HTTP/1.1\" {status} {bytes} \
             \"\" \"docker/20.10 UpstreamClient(x y)\""
        )
    }

    fn read(lines: &[impl AsRef<str>]) -> AccessLog {
        AccessLog::read(write(lines).path(), 0).unwrap()
    }

    fn write(lines: &[impl AsRef<str>]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for line in lines {
            writeln!(file, "{}", line.as_ref()).unwrap();
        }
        file
    }
}
