//! A thousand clients that stand still, at every stage of an answer: what they take of a peer is bounded, other
//! users' pulls go on, and in the end they are gone.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use rustix::process::Uid;
use rustix::thread::set_thread_uid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Client, FrontDoor, Pull};
use crate::harbor::{Access, Harbor};
use crate::image::{Format, Image, ImageSpec};
use crate::region::{Peer, Region};
use crate::stage::{REGISTRY_HOST, REGISTRY_IP, Stage};
use crate::wait;

pub(super) fn clients_take_a_bounded_part(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    harbor.add_project("priv", Access::Private);
    harbor.add_robot("robot$x", "secret", &["priv"]);
    let stalled =
        ImageSpec { format: Format::Oci, layer_lens: vec![6 << 20; LAYERS] }.build("priv/stalled", 1);
    harbor.publish(&stalled, "v1");
    for number in 0..MANIFESTS {
        let manifest = large_manifest(number);
        harbor.publish_manifest("priv/stalled", &format!("big-{number}"), MANIFEST, manifest.as_bytes());
    }
    let honest = [2, 3].map(|seed| {
        let image =
            ImageSpec { format: Format::Oci, layer_lens: vec![2 << 20; 8] }.build("priv/honest", seed);
        harbor.publish(&image, &format!("v{seed}"));
        image
    });
    let region = Region::up(stage, harbor.ca(), 1)?;
    let peer = region.peers().next().context("no peer")?;
    pull(stage, peer, "priv/stalled:v1", &stalled)?;
    let before = pull(stage, peer, "priv/honest:v2", &honest[0])?;

    let idle = memory(peer)?;
    let crowd = Crowd::gather(peer, &stalled)?;
    let during = pull(stage, peer, "priv/honest:v3", &honest[1])?;
    let met = memory(peer)?;
    stage.report(&format!(
        "{} clients stand still. The peer's memory: {} MB before, {} MB meanwhile, {} MB at most. Another user's pull: {} ms \
         before, {} ms meanwhile.\n",
        crowd.clients.len(),
        idle.resident / 1_000_000,
        met.resident / 1_000_000,
        met.most / 1_000_000,
        before.as_millis(),
        during.as_millis(),
    ))?;
    let gone = crowd.wait_until_gone(peer)?;
    let after = memory(peer)?;
    stage.report(&format!(
        "{} s later no answer is under way: {} MB, {} MB at most.\n",
        gone.as_secs(),
        after.resident / 1_000_000,
        after.most / 1_000_000
    ))?;
    ensure!(after.most < MOST_MEMORY, "the peer took {} bytes", after.most);
    ensure!(during < before * 3 + Duration::from_secs(1), "a pull took {during:?}, and {before:?} before");
    region.assert_no_error_logged()
}

fn pull(stage: &Stage, peer: &Peer, image: &str, expected: &Image) -> Result<Duration> {
    let (client, front_door) = (Client::Skopeo, FrontDoor::Mirror);
    let label = image.rsplit(['/', ':']).next().unwrap_or(image);
    let credentials = Some(ROBOT);
    let pull = Pull { stage, client, front_door, peer, image, credentials, label }.start()?;
    let began_at = Instant::now();
    let held = pull.run()?;
    ensure!(held == expected.digests(), "the client holds {held:?}");
    Ok(began_at.elapsed())
}

/// The clients that stand still, all of one user who is not the one that pulls.
struct Crowd {
    clients: Vec<Still>,
}

/// A client that has gone as far as it goes.
enum Still {
    Plain(#[expect(dead_code, reason = "held open")] TcpStream),
    Tls(#[expect(dead_code, reason = "held open")] Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// How far a client goes.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Connected,
    HalfHead,
    KeptAlive,
    HalfHandshake,
    Tunnel,
    Manifest,
    Blob,
    BlobBegun,
    BlobInTls,
    Pipelined,
    Passing,
    Push,
}

impl Crowd {
    const STOPS: [Stop; 12] = [
        Stop::Connected,
        Stop::HalfHead,
        Stop::KeptAlive,
        Stop::HalfHandshake,
        Stop::Tunnel,
        Stop::Manifest,
        Stop::Blob,
        Stop::BlobBegun,
        Stop::BlobInTls,
        Stop::Pipelined,
        Stop::Passing,
        Stop::Push,
    ];

    fn gather(peer: &Peer, image: &Image) -> Result<Self> {
        let asking = Asking::new(peer, image)?;
        let gather = move || {
            set_thread_uid(Uid::from_raw(NOBODY)).context("become another user")?;
            let stops = Self::STOPS.iter().cycle().take(CLIENTS).enumerate();
            let clients = stops.map(|(number, stop)| {
                asking.go(*stop, number / Self::STOPS.len()).with_context(|| format!("{stop:?}"))
            });
            clients.collect::<Result<Vec<Still>>>()
        };
        // A thread of its own: the user is the thread's.
        let gathered = thread::spawn(gather).join().map_err(|_| anyhow!("a client panicked"))?;
        Ok(Self { clients: gathered? })
    }

    /// Until no answer is under way any more, though nobody has hung up.
    fn wait_until_gone(&self, peer: &Peer) -> Result<Duration> {
        let began_at = Instant::now();
        wait::until("end of the stalled answers", Duration::from_secs(100), || {
            let metrics = peer.metrics()?;
            let is_cut = metrics.sum("flotilla_peer_door_bounds_total", "bound=\"stalled\"") > 0;
            Ok((is_cut && metrics.sum("flotilla_peer_answer_bytes", "") == 0).then_some(()))
        })?;
        Ok(began_at.elapsed())
    }
}

/// What the clients know.
struct Asking {
    door: SocketAddr,
    layers: Vec<String>,
    tls: Arc<ClientConfig>,
}

impl Asking {
    fn new(peer: &Peer, image: &Image) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&peer.ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let layers = image.layers.iter().map(|layer| layer.digest().to_string()).collect();
        Ok(Self { door: peer.door_authority().parse()?, layers, tls })
    }

    fn go(&self, stop: Stop, number: usize) -> Result<Still> {
        let mut stream = self.connect()?;
        let blob = format!("blobs/{}", self.layers[number % self.layers.len()]);
        let manifest = format!("manifests/big-{}", number % MANIFESTS);
        match stop {
            Stop::Connected => {}
            Stop::HalfHead => stream.write_all(&vec![b'x'; 40 << 10])?,
            Stop::KeptAlive => {
                stream.write_all(b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n")?;
                stream.read_exact(&mut [0])?;
            }
            Stop::HalfHandshake => {
                proxied(&mut stream, &format!("{REGISTRY_HOST}:443"))?;
                // A record of TLS that is longer than what follows.
                stream.write_all(&[22, 3, 1, 2, 0, 1])?;
            }
            // An address is no name of a registry.
            Stop::Tunnel => proxied(&mut stream, &format!("{REGISTRY_IP}:443"))?,
            Stop::Manifest => stream.write_all(get(&manifest, "").as_bytes())?,
            Stop::Blob => stream.write_all(get(&blob, "").as_bytes())?,
            Stop::BlobBegun => {
                stream.write_all(get(&blob, "").as_bytes())?;
                let mut status = [0; 12];
                stream.read_exact(&mut status)?;
                // One that finds no room is told so.
                if status.ends_with(b"200") {
                    stream.read_exact(&mut vec![0; 1 << 20])?;
                }
            }
            Stop::BlobInTls => return self.in_tls(stream, &blob),
            Stop::Pipelined => stream.write_all(get(&blob, "").repeat(20).as_bytes())?,
            Stop::Passing => stream.write_all(get(&blob, "cookie: a=b\r\n").as_bytes())?,
            Stop::Push => {
                let target = format!("http://{REGISTRY_HOST}/v2/priv/stalled/blobs/uploads/");
                let head = format!("POST {target} HTTP/1.1\r\nhost: {REGISTRY_HOST}\r\n{}", credential());
                stream.write_all(format!("{head}content-length: 1000000\r\n\r\nx").as_bytes())?;
            }
        }
        Ok(Still::Plain(stream))
    }

    fn in_tls(&self, mut stream: TcpStream, blob: &str) -> Result<Still> {
        proxied(&mut stream, &format!("{REGISTRY_HOST}:443"))?;
        let name = ServerName::try_from(REGISTRY_HOST)?;
        let mut tls = StreamOwned::new(ClientConnection::new(self.tls.clone(), name)?, stream);
        tls.write_all(get(blob, "").as_bytes())?;
        Ok(Still::Tls(Box::new(tls)))
    }

    /// With little room of its own, as what the kernel holds is not the peer's.
    fn connect(&self) -> Result<TcpStream> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_recv_buffer_size(&socket, 64 << 10)?;
        connect(&socket, &self.door)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }
}

fn get(path: &str, headers: &str) -> String {
    let path = format!("/v2/priv/stalled/{path}?ns={REGISTRY_HOST}");
    let accept = format!("accept: {MANIFEST}\r\n");
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{accept}{}{headers}\r\n", credential())
}

fn credential() -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(ROBOT))
}

/// Has the door's proxy connect to `host`.
fn proxied(stream: &mut TcpStream, host: &str) -> Result<()> {
    write!(stream, "CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    Ok(())
}

/// As long as a manifest may be, another for each number.
fn large_manifest(number: usize) -> String {
    let head = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","number":{number},"padding":""#);
    format!("{head}{}\"}}", "x".repeat((8 << 20) - 2 - head.len()))
}

/// Bytes of a peer's memory.
struct Memory {
    resident: u64,
    most: u64,
}

fn memory(peer: &Peer) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{}/status", peer.pid()?.as_raw_nonzero()))?;
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok::<u64, anyhow::Error>(number.with_context(|| format!("no {name} in {status}"))? * 1024)
    };
    Ok(Memory { resident: kilobytes("VmRSS")?, most: kilobytes("VmHWM")? })
}

const ROBOT: &str = "robot$x:secret";
const CLIENTS: usize = 1000;
/// Whose clients stand still; root's pull.
const NOBODY: u32 = 65_534;
const LAYERS: usize = 12;
const MANIFESTS: usize = 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes that a peer may take with all of them connected.
const MOST_MEMORY: u64 = 250_000_000;
