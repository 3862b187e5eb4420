//! A node that has IPv6 alone, and a manager that is not where the join token says.

use anyhow::{Result, ensure};

use super::{Cluster, node};
use crate::stage::Stage;

/// A node without an IPv4 address joins, though the manager has moved since its token was made: its
/// configuration names two addresses, the second of which is right.
pub(in crate::story) fn ipv6_alone_and_a_manager_that_moved(stage: &Stage) -> Result<()> {
    let cluster = Cluster::installed(stage, &node("fd00:98::77 ctl.test\n"))?;
    // What the region is to reach by IPv6 must say so: this machine has both.
    cluster.start_ctl(r#"sed -i 's/^listen = "\[::\]:\(400[36]\)"/&\nadvertise = "[fd00:98::1]:\1"/' $1"#)?;
    cluster.bring_token("peer")?;
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
