//! A client of a node's mirror door that keeps nothing: what it costs must not be taken for
//! what the daemons cost. Whether the bytes are right is read from the stores afterwards.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_proto::Digest;

use crate::http;
use crate::stage::REGISTRY_HOST;

/// A blob that was read to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulled {
    /// From the request to the last byte.
    pub(crate) took: Duration,
    /// The longest wait for a next byte, the first one's too.
    pub(crate) longest_silence: Duration,
}

/// Reads the manifest, which grants its blobs.
pub(crate) fn read_manifest(repository: &str) -> Result<()> {
    let url = format!("http://{DOOR}/v2/{repository}/manifests/v1?ns={REGISTRY_HOST}");
    let answer = http::get(&url, PATIENCE)?;
    ensure!(
        answer.status == 200,
        "the manifest: {} {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    );
    Ok(())
}

/// Reads a blob of `size` bytes.
pub(crate) fn pull(repository: &str, digest: Digest, size: u64) -> Result<Pulled> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(DOOR).context("connect to the door")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /v2/{repository}/blobs/{digest}?ns={REGISTRY_HOST} HTTP/1.0\r\nHost: {DOOR}\r\n\r\n"
    )?;
    let mut buffer = vec![0; READ_LEN];
    let (mut head, mut bytes) = (Vec::new(), None);
    let (mut heard_at, mut longest_silence) = (began, Duration::ZERO);
    loop {
        let len = stream.read(&mut buffer).context("read from the door")?;
        let now = Instant::now();
        longest_silence = longest_silence.max(now - heard_at);
        heard_at = now;
        if len == 0 {
            break;
        }
        match &mut bytes {
            Some(bytes) => *bytes += len as u64,
            None => {
                head.extend_from_slice(&buffer[..len]);
                bytes = body_begun(&head)?;
            }
        }
    }
    let bytes = bytes.context("the door sent no answer")?;
    ensure!(bytes == size, "the body ended after {bytes} of {size} bytes");
    Ok(Pulled { took: heard_at - began, longest_silence })
}

/// Bytes of the body in what came, once the headers are whole.
fn body_begun(answer: &[u8]) -> Result<Option<u64>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let status = answer.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if status != b"200" {
        bail!("the door answered {}", String::from_utf8_lossy(answer));
    }
    Ok(Some((answer.len() - end - 4) as u64))
}

const DOOR: &str = "127.0.0.1:4001";
const READ_LEN: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
