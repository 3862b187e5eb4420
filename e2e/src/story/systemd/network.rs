//! What is not where it is looked for, or not who it is taken for.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Cluster, NODE_HOSTS, node};
use crate::certificates::Authority;
use crate::stage::{REGISTRY_HOST, Stage};
use crate::wait;

/// A node without an IPv4 address joins, though the manager has moved since its token was made: its
/// configuration names two addresses, the second of which is right.
pub(in crate::story) fn ipv6_alone_and_a_manager_that_moved(stage: &Stage) -> Result<()> {
    let cluster = Cluster::installed(stage, &node("fd00:98::77 ctl.test\n"))?;
    // What the region is to reach by IPv6 must say so: this machine has both.
    cluster.start_ctl(r#"sed -i 's/^listen = "\[::\]:\(400[36]\)"/&\nadvertise = "[fd00:98::1]:\1"/' $1"#)?;
    cluster.bring_token()?;
    let addresses = r#"addresses = ["[fd00:98::99]:4000", "[fd00:98::1]:4000"]"#;
    cluster.node.sh(&format!(
        "ip -4 addr flush dev node0
         sed -i 's/^# addresses = .*/{addresses}/' /etc/flotilla/peer.toml
         systemctl enable --quiet --now flotilla-peer"
    ))?;
    cluster.wait_node_ready()?;
    cluster.pull_new("team/over-ipv6")?;
    let topology = cluster.ctl.sh("flotilla topology show")?;
    ensure!(topology.contains("node1  [fd00:98::2]:4006"), "advertised otherwise: {topology}");
    Ok(())
}

/// `registry set` with the wrong certificate authority, or with a dead host, says that the endpoint is down and why.
/// `topology show` says the same until it is set right.
pub(in crate::story) fn registry_set_wrong(stage: &Stage) -> Result<()> {
    let cluster = Cluster::with_seed(stage, &node(NODE_HOSTS))?;
    let ctl = &cluster.ctl;
    let shown = || ctl.sh("flotilla topology show");
    wait::until("the registry is shown up", Duration::from_secs(20), || {
        Ok(shown()?.contains(&format!("https://{REGISTRY_HOST}  up")).then_some(()))
    })?;

    fs::write(ctl.file("/root/other.pem"), Authority::new("another authority")?.pem())?;
    let set = |url: &str, ca: &str| {
        ctl.sh(&format!("flotilla registry set {REGISTRY_HOST} --url https://{url} --ca {ca}"))
    };
    let told = set(REGISTRY_HOST, "other.pem")?;
    ensure!(told.contains("down") && told.contains("certificate"), "a wrong CA: {told}");
    let tree = shown()?;
    ensure!(tree.contains("down") && tree.contains("certificate"), "a wrong CA in the tree: {tree}");

    let told = set("10.99.0.77", "ca.pem")?;
    ensure!(told.contains("down") && told.contains("10.99.0.77"), "a dead host: {told}");
    let told = set(REGISTRY_HOST, "ca.pem")?;
    ensure!(told.contains("up") && !told.contains("down"), "set right: {told}");
    ensure!(!shown()?.contains("down"), "set right: {}", shown()?);
    Ok(())
}
