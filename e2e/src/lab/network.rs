//! The lab's network: one switch, and a namespace with one link of the stated rate per node.
//!
//! ```text
//!   switch (a bridge) ──┬── node seed-0 … peer-11   10.98.0.10 …   shaped both ways
//!                       ├── node control            10.98.0.3      manager and scheduler
//!                       └── origin                  10.98.0.2      the registry, on 10.99.0.1
//! ```

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::stage::{ORIGIN_NETNS, REGISTRY_IP};

/// The nodes, and what they are connected by.
#[derive(Debug)]
pub(crate) struct Network {
    control: Node,
    seeds: Vec<Node>,
    peers: Vec<Node>,
    /// A node that an attacker has.
    liar: Node,
}

/// One machine of the lab.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
}

/// What a link carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    bits_per_s: u64,
}

impl Rate {
    pub(crate) fn bytes_per_s(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let bits = self.bits_per_s as f64;
        bits / 8.0
    }
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let malformed = || ParseRateError(text.to_owned());
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(malformed)?;
        let number: u64 = text[..digits].parse().map_err(|_| malformed())?;
        let scale = match &text[digits..] {
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            _ => return Err(malformed()),
        };
        number
            .checked_mul(scale)
            .filter(|bits| *bits > 0)
            .map(|bits_per_s| Self { bits_per_s })
            .ok_or_else(malformed)
    }
}

impl Network {
    /// Lays the network beside that of the stage, which is set: it reaches the registry there.
    pub(crate) fn lay(seeds: u8, peers: u8, rate: Rate, mtu: u16) -> Result<Self> {
        let nodes = |role: &str, count: u8, first: u8| -> Vec<Node> {
            (0..count)
                .map(|place| Node { name: format!("{role}-{place}"), address: address(first + place) })
                .collect()
        };
        let network = Self {
            control: Node { name: "control".to_owned(), address: address(3) },
            seeds: nodes("seed", seeds, FIRST_SEED),
            peers: nodes("peer", peers, FIRST_PEER),
            liar: Node { name: "liar".to_owned(), address: address(LIAR) },
        };
        ip("link add switch type bridge")?;
        // A switch filters nothing: the kernel's would pass each packet through the host's rules,
        // where there is such a setting.
        let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
        ip("link set switch up")?;
        ip(&format!("link add o-switch type veth peer name origin1 netns {ORIGIN_NETNS}"))?;
        ip("link set o-switch master switch up")?;
        ip(&format!("-n origin addr add {}/24 dev origin1", address(2)))?;
        ip("-n origin link set origin1 up")?;
        network.control.plug_in(mtu)?;
        for node in network.daemons() {
            node.plug_in(mtu)?;
            node.shape(rate)?;
        }
        Ok(network)
    }

    /// Limits what the registry sends to all nodes together.
    pub(crate) fn shape_origin(&self, rate: Rate) -> Result<()> {
        tc(&["-n", "origin"], "origin1", rate)
    }

    pub(crate) fn control(&self) -> &Node {
        &self.control
    }

    pub(crate) fn seeds(&self) -> &[Node] {
        &self.seeds
    }

    pub(crate) fn peers(&self) -> &[Node] {
        &self.peers
    }

    pub(crate) fn liar(&self) -> &Node {
        &self.liar
    }

    fn daemons(&self) -> impl Iterator<Item = &Node> {
        self.seeds.iter().chain(&self.peers).chain([&self.liar])
    }
}

impl Node {
    /// A command on this node.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns())).arg(program);
        command
    }

    fn netns(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    fn plug_in(&self, mtu: u16) -> Result<()> {
        let Self { name, address } = self;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add v-{name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"))?;
        ip(&format!("link set v-{name} master switch up"))?;
        ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} route add {REGISTRY_IP} via {}", self::address(2)))
    }

    /// Its uplink is shaped where it leaves the node, its downlink where it leaves the switch.
    fn shape(&self, rate: Rate) -> Result<()> {
        tc(&["-n", &self.name], "eth0", rate)?;
        tc(&[], &format!("v-{}", self.name), rate)
    }
}

/// Moves the calling thread to a node, for good: for a thread that ends with its work.
pub(crate) fn enter(node: &Node) -> Result<()> {
    let netns = File::open(node.netns()).with_context(|| format!("open the network of {}", node.name))?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter the network of {}", node.name))
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 0, last)
}

fn ip(words: &str) -> Result<()> {
    succeed(Command::new("ip").args(words.split(' ')))
}

/// A bucket of 64 KiB lets segmentation offload through, as a real card would; the queue of
/// 50 ms is that of an ordinary switch port (at 200 Mbit/s 1.25 MB).
fn tc(before: &[&str], device: &str, rate: Rate) -> Result<()> {
    let rate = format!("{}bit", rate.bits_per_s);
    let shape = ["qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate];
    succeed(Command::new("tc").args(before).args(shape).args(["burst", "64kb", "latency", "50ms"]))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

const FIRST_SEED: u8 = 10;
const FIRST_PEER: u8 = 20;
const LIAR: u8 = 100;

/// Not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rate as tc writes it, such as 200mbit")]
pub(crate) struct ParseRateError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_as_tc_writes_it() {
        assert_eq!("200mbit".parse::<Rate>().unwrap().bytes_per_s(), 25e6);
        assert_eq!("1gbit".parse::<Rate>().unwrap().bytes_per_s(), 125e6);
        for wrong in ["", "200", "mbit", "200 mbit", "0mbit", "200Mbit", "99999999999999999999gbit"] {
            assert_eq!(wrong.parse::<Rate>(), Err(ParseRateError(wrong.to_owned())));
        }
    }
}
