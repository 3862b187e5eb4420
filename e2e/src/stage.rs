//! The piece of machine a story runs on: mount, network and process namespaces of its own.
//!
//! ```text
//!  region's namespace                                 origin's namespace
//!  clients (root), Flotilla (REGION_UID)              docker-registry, or a fake Harbor
//!          10.99.0.2 region0 ───────── veth ───────── origin0 10.99.0.1 (:443, fenced)
//!                                      slowable               10.99.0.3 (its own metrics)
//!                                                             10.99.0.4 (:443, fenced: storage)
//! ```
//!
//! The registry is not on 127.0.0.0/8: clients never proxy that and dockerd does not check
//! certificates there. Nothing has a way out of the machine: the default route, by which a
//! daemon finds the address to advertise, ends in the origin's namespace.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process;

/// The user the daemons under test run as: any but root, and owner of nothing else.
pub const REGION_UID: u32 = 64_004;
/// The registry's public name.
pub const REGISTRY_HOST: &str = "harbor.test";
/// The registry's address, closed to root.
pub const REGISTRY_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
/// Where a request of the region's comes from.
pub const REGION_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));
/// The public name of the registry's object store.
pub const STORAGE_HOST: &str = "s3.test";
/// The object store's address, closed to root.
pub const STORAGE_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 4));
/// The origin's other address, open to the harness.
pub const ORIGIN_BACKSTAGE_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 3));

/// A stage that is set. There is one per process, as it *is* the process's namespaces, and
/// it is struck when the process ends.
#[derive(Debug)]
pub struct Stage(());

/// Whose user and network a program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A container client: root, in the region's namespace, no way to the registry.
    Client,
    /// A daemon under test: [`REGION_UID`], in the region's namespace.
    Region,
    /// The registry and who fills it: root, in the origin's namespace.
    Origin,
}

impl Stage {
    /// Sets the stage in the namespaces this process was started in. `store` is the
    /// directory on disk behind all paths; `flotilla` the binary under test.
    ///
    /// Everything is mounted below `/run`, where a path is short enough for a socket and
    /// open to [`REGION_UID`] wherever the checkout lies.
    pub fn set(store: &Path, flotilla: &Path) -> Result<Self> {
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).context("mount /run")?;
        fs::create_dir(ROOT)?;
        mount_bind(store, ROOT).context("mount the story's directory")?;
        File::create(FLOTILLA)?;
        mount_bind(flotilla, FLOTILLA).context("mount the binary under test")?;

        let stage = Self(());
        for name in ["logs", "home", "tmp"] {
            fs::create_dir(stage.path(name))?;
        }
        fs::set_permissions(stage.path("tmp"), fs::Permissions::from_mode(0o1777))?;
        stage.cover("/etc/hosts", &hosts(REGISTRY_IP))?;
        fs::create_dir(stage.path("etc-docker"))?;
        mount_bind(stage.path("etc-docker"), "/etc/docker").context("mount /etc/docker")?;
        lay_network()?;
        Ok(stage)
    }

    /// A path on the stage.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        Path::new(ROOT).join(name)
    }

    /// Makes a directory (and those above it) for the client side.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// Makes a directory that the daemons under test may write to.
    pub fn region_dir(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.dir(name)?;
        chown(&path, Some(REGION_UID), Some(REGION_UID)).context("hand over directory")?;
        Ok(path)
    }

    /// Where programs log.
    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// Adds to what the story has to show beside its end.
    pub fn report(&self, text: &str) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.path(REPORT)).context("report")?;
        file.write_all(text.as_bytes()).context("report")
    }

    /// A command of `side` with a clean environment.
    pub fn command(&self, side: Side, program: &str) -> Command {
        let mut command = match side {
            Side::Client | Side::Region => Command::new(program),
            Side::Origin => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={ORIGIN_NETNS}")).arg(program);
                command
            }
        };
        if side == Side::Region {
            command.uid(REGION_UID).gid(REGION_UID);
        }
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path(if side == Side::Region { "tmp" } else { "home" }))
            .env("TMPDIR", self.path("tmp"))
            .current_dir(ROOT);
        command
    }

    /// The binary under test, as the daemons run it.
    pub fn flotilla(&self) -> Command {
        self.command(Side::Region, FLOTILLA)
    }

    /// The path of the binary under test.
    pub fn flotilla_path(&self) -> &'static Path {
        Path::new(FLOTILLA)
    }

    /// Listens on the origin's side, in this process: the socket stays in the namespace
    /// where it was made.
    pub fn listen_at_origin(&self, address: IpAddr, port: u16) -> Result<TcpListener> {
        at_origin(move || {
            TcpListener::bind((address, port)).with_context(|| format!("listen on {address}:{port}"))
        })
    }

    /// Connects from the origin's side, where nothing keeps root from the registry.
    pub fn connect_at_origin(&self, address: SocketAddr) -> Result<TcpStream> {
        at_origin(move || TcpStream::connect(address).with_context(|| format!("connect to {address}")))
    }

    /// Fails unless the kernel refuses this process, root like the clients, the registry
    /// and its storage.
    pub fn assert_fenced(&self) -> Result<()> {
        for address in [REGISTRY_IP, STORAGE_IP] {
            match TcpStream::connect_timeout(&(address, 443).into(), Duration::from_secs(2)) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => bail!("the fence should refuse, not fail: {error}"),
                Ok(_) => bail!("clients can reach {address}"),
            }
        }
        Ok(())
    }

    /// Limits what the origin sends to the region, in bytes a second.
    pub fn slow_origin(&self, bytes_per_second: u64) -> Result<()> {
        let rate = format!("{bytes_per_second}bps");
        let shape = ["qdisc", "replace", "dev", "origin0", "root", "tbf", "rate", &rate];
        // The queue is short: what waits in it was sent as far as the registry's log knows.
        let queue = ["burst", "64kb", "latency", "50ms"];
        let mut command = self.command(Side::Origin, "tc");
        command.args(shape).args(queue);
        self.quickly("tc", command)
    }

    /// Has the registry's name lead to another address from here on.
    pub fn resolve_registry_to(&self, address: IpAddr) -> Result<()> {
        fs::write(self.path("hosts"), hosts(address)).context("write hosts")
    }

    /// Lifts the limit.
    pub fn unslow_origin(&self) -> Result<()> {
        let mut command = self.command(Side::Origin, "tc");
        command.args(["qdisc", "del", "dev", "origin0", "root"]);
        self.quickly("tc", command)
    }

    fn quickly(&self, name: &str, command: Command) -> Result<()> {
        process::run(&self.logs(), name, command, Duration::from_secs(10))?.success().map(drop)
    }

    fn cover(&self, target: &str, text: &str) -> Result<()> {
        let cover = self.path(target.rsplit('/').next().unwrap_or(target));
        fs::write(&cover, text)?;
        mount_bind(&cover, target).with_context(|| format!("mount {target}"))
    }
}

/// Opens a socket in the origin's network.
fn at_origin<T: Send + 'static>(open: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let enter_and_open = || {
        let netns = File::open(ORIGIN_NETNS).context("open the origin's network")?;
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter the origin's network")?;
        open()
    };
    // A thread of its own, as it cannot come back.
    let opened = thread::spawn(enter_and_open).join();
    opened.map_err(|_| anyhow!("a thread panicked in the origin's network"))?
}

fn lay_network() -> Result<()> {
    ip("link set lo up")?;
    ip("netns add origin")?;
    ip("link add region0 type veth peer name origin0 netns origin")?;
    ip(&format!("addr add {REGION_IP}/24 dev region0"))?;
    ip("link set region0 up")?;
    ip(&format!("route add default via {ORIGIN_BACKSTAGE_IP}"))?;
    ip("-n origin link set lo up")?;
    ip(&format!("-n origin addr add {REGISTRY_IP}/24 dev origin0"))?;
    ip(&format!("-n origin addr add {ORIGIN_BACKSTAGE_IP}/24 dev origin0"))?;
    ip(&format!("-n origin addr add {STORAGE_IP}/24 dev origin0"))?;
    ip("-n origin link set origin0 up")?;
    ip(&format!("rule add pref 10 to {REGISTRY_IP} uidrange 0-0 prohibit"))?;
    ip(&format!("rule add pref 11 to {STORAGE_IP} uidrange 0-0 prohibit"))
}

fn hosts(registry: IpAddr) -> String {
    format!("127.0.0.1 localhost\n{registry} {REGISTRY_HOST}\n{STORAGE_IP} {STORAGE_HOST}\n")
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("run ip")?;
    if !output.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// In the story's directory, what it has to show.
pub(crate) const REPORT: &str = "report.txt";
const ROOT: &str = "/run/story";
const FLOTILLA: &str = "/run/flotilla";
/// The origin's network namespace.
pub(crate) const ORIGIN_NETNS: &str = "/run/netns/origin";
