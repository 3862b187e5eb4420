//! What an operator does on machines that systemd has booted, with the package.

mod daemons;
mod membership;
mod network;
mod package;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use crate::image::{Format, Image, ImageSpec};
use crate::machine::{self, Machine, Plan};
use crate::origin::Origin;
use crate::process;
use crate::runner::House;
use crate::stage::{REGION_IP, REGISTRY_HOST, REGISTRY_IP, Side, Stage};
use crate::wait;

pub(super) use daemons::{first_start_without_dns, killed_or_hung};
pub(super) use membership::removed_and_enrolled_again;
pub(super) use network::{ipv6_alone_and_a_manager_that_moved, registry_set_wrong};
pub(super) use package::upgraded_removed_and_purged;

/// The root and the package are made outside the stage, where there is a network; both are kept.
pub(super) fn prepare(house: &House, store: &Path) -> Result<()> {
    std::os::unix::fs::symlink(machine::base(house.dir())?, store.join(BASE)).context("link the root")?;
    fs::hard_link(package(house)?, store.join(PACKAGE)).context("link the package")
}

/// The `.deb` of the executable under test. It is built again if the executable or the packaging has changed.
fn package(house: &House) -> Result<PathBuf> {
    let dir = house.dir().join("package");
    let checkout = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut sources = vec![house.flotilla().to_owned(), checkout.join("Cargo.toml")];
    files_below(&checkout.join("docker"), &mut sources)?;
    let changed: Vec<SystemTime> = sources.iter().map(modified).collect::<Result<_>>()?;
    if let Some(package) = deb(&dir)
        && changed.iter().max() < Some(&modified(&package)?)
    {
        return Ok(package);
    }
    crate::runner::remove_dir(&dir)?;
    fs::create_dir_all(&dir)?;
    machine::build_package(house.flotilla(), &dir)?;
    deb(&dir).context("docker/package/build made no .deb")
}

fn deb(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"))
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files_below(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}

fn modified(path: &PathBuf) -> Result<SystemTime> {
    fs::metadata(path).and_then(|it| it.modified()).with_context(|| format!("look at {}", path.display()))
}

/// Two machines: `ctl` has manager, scheduler and the seed, `node1` a peer. They share a link; the
/// registry is on another, which the seed's machine alone has.
struct Cluster<'a> {
    stage: &'a Stage,
    origin: Origin<'a>,
    ctl: Machine<'a>,
    node: Machine<'a>,
}

impl<'a> Cluster<'a> {
    /// Both machines with the package on them, and nothing configured.
    fn installed(stage: &'a Stage, node: &Plan<'_>) -> Result<Self> {
        let origin = Origin::start(stage)?;
        lay_link(stage)?;
        let hosts = format!("{REGION_IP} {MANAGER_HOST}\n{REGISTRY_IP} {REGISTRY_HOST}\n");
        let ctl = Plan { name: "ctl", network: None, hosts: &hosts, resolver: "" };
        let base = fs::read_link(stage.path(BASE)).context("find the root")?;
        let (ctl, node) = (Machine::boot(stage, &base, &ctl)?, Machine::boot(stage, &base, node)?);
        for machine in [&ctl, &node] {
            machine.copy(&stage.path(PACKAGE), "/root/flotilla.deb")?;
            machine.sh_within("dpkg --install flotilla.deb", INSTALL_TIMEOUT)?;
        }
        ctl.copy(&origin.ca(), "/root/ca.pem")?;
        Ok(Self { stage, origin, ctl, node })
    }

    /// The README's first hour, up to the peer: manager, scheduler and seed are ready.
    fn with_seed(stage: &'a Stage, node: &Plan<'_>) -> Result<Self> {
        let cluster = Self::installed(stage, node)?;
        cluster.start_ctl("")?;
        Ok(cluster)
    }

    /// Configures and starts the daemons of `ctl`; `settle` is a shell's script that changes a daemon's
    /// configuration, the file `$1`, before its start.
    fn start_ctl(&self, settle: &str) -> Result<()> {
        // In one line, as people paste it: the command waits for the manager that is starting.
        self.ctl.sh(&format!(
            "sed -i 's/^advertise = .*/advertise = \"{MANAGER_HOST}:4000\"/' /etc/flotilla/manager.toml
             systemctl enable --quiet --now flotilla-manager; flotilla region add eu-west
             flotilla registry set {REGISTRY_HOST} --url https://{REGISTRY_HOST} --ca ca.pem"
        ))?;
        for (role, name, unit, file, admin) in [
            ("scheduler", "scheduler-eu-west", "flotilla-scheduler", "scheduler.toml", 4004),
            ("seed", "seed", "flotilla-peer", "peer.toml", 4005),
        ] {
            self.ctl.sh(&format!(
                "test {role}.toml = {file} || cp /etc/flotilla/{role}.toml /etc/flotilla/{file}
                 sed -i 's/^# name = .*/name = \"{name}\"/' /etc/flotilla/{file}
                 set -- /etc/flotilla/{file}; {settle}
                 flotilla token create --region eu-west --role {role} --uses 1 | tail -n 1 |
                     install -m 640 -g flotilla /dev/stdin /etc/flotilla/tokens/{role}
                 systemctl enable --quiet --now {unit}
                 timeout 25 sh -c 'until curl -sf http://127.0.0.1:{admin}/readyz; do sleep 0.1; done'"
            ))?;
        }
        Ok(())
    }

    /// All of it: the node's peer is ready.
    fn up(stage: &'a Stage) -> Result<Self> {
        let cluster = Self::with_seed(stage, &node(NODE_HOSTS))?;
        cluster.bring_token()?;
        cluster.node.sh("systemctl enable --quiet --now flotilla-peer")?;
        cluster.wait_node_ready()?;
        Ok(cluster)
    }

    /// A new join token of a peer, on the node.
    fn bring_token(&self) -> Result<()> {
        let made = "flotilla token create --region eu-west --role peer --uses 1 | tail -n 1";
        let token = self.ctl.sh(made)?;
        self.node.sh(&format!(
            "echo '{token}' | install -m 640 -g flotilla /dev/stdin /etc/flotilla/tokens/peer"
        ))?;
        Ok(())
    }

    fn wait_node_ready(&self) -> Result<()> {
        wait::until("peer ready", READY_TIMEOUT, || {
            Ok(self.node.answer("curl -sf http://127.0.0.1:4005/readyz")?.0.then_some(()))
        })
        .with_context(|| self.node.journal("flotilla-peer").unwrap_or_default())
    }

    /// An image that nobody has pulled yet.
    fn publish(&self, repository: &str) -> Result<Image> {
        let image = ImageSpec::multi_layer(Format::Oci).build(repository, 1);
        self.origin.publish(&image)?;
        Ok(image)
    }

    /// Pulls an image with skopeo on the node, through the peer's prefix door.
    fn pull(&self, image: &Image) -> Result<()> {
        let to = self.stage.dir(format!("pulled/{}", image.repository.replace('/', "-")))?;
        let mut command = self.stage.command(Side::Client, "nsenter");
        command
            .args([&format!("--net=/run/netns/{NODE}"), "skopeo", "copy", "--src-tls-verify=false"])
            .arg(format!("docker://127.0.0.1:4001/{REGISTRY_HOST}/{}:v1", image.repository))
            .arg(format!("dir:{}", to.display()));
        process::run(&self.stage.logs(), "pull", command, PULL_TIMEOUT)?.success()?;
        for blob in image.blobs() {
            ensure!(to.join(blob.digest().hex()).is_file(), "{} was not pulled", blob.digest());
        }
        Ok(())
    }

    /// Publishes and pulls one: the region works.
    fn pull_new(&self, repository: &str) -> Result<()> {
        let image = self.publish(repository)?;
        self.pull(&image).with_context(|| format!("pull {repository}"))
    }
}

/// The node's machine.
fn node(hosts: &'static str) -> Plan<'static> {
    Plan { name: "node1", network: Some(NODE), hosts, resolver: NO_RESOLVER }
}

fn lay_link(stage: &Stage) -> Result<()> {
    for line in [
        "netns add node1",
        "link add ctl0 type veth peer name node0 netns node1",
        "addr add 10.98.0.1/24 dev ctl0",
        "addr add fd00:98::1/64 dev ctl0 nodad",
        "link set ctl0 up",
        "-n node1 link set lo up",
        "-n node1 addr add 10.98.0.2/24 dev node0",
        "-n node1 addr add fd00:98::2/64 dev node0 nodad",
        "-n node1 link set node0 up",
        "-n node1 route add default via 10.98.0.1",
        "-n node1 route add default via fd00:98::1",
    ] {
        let mut command = stage.command(Side::Client, "ip");
        command.args(line.split(' '));
        process::run(&stage.logs(), "ip", command, Duration::from_secs(10))?.success()?;
    }
    Ok(())
}

const BASE: &str = "machine";
const PACKAGE: &str = "flotilla.deb";
const NODE: &str = "node1";
const MANAGER_HOST: &str = "ctl.test";
const NODE_HOSTS: &str = "10.98.0.1 ctl.test\n";
/// Nobody has that address: a question waits until the resolver gives up.
const NO_RESOLVER: &str = "nameserver 10.98.0.53\noptions timeout:1 attempts:1\n";
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
const READY_TIMEOUT: Duration = Duration::from_secs(40);
const PULL_TIMEOUT: Duration = Duration::from_secs(60);
