//! A node that its operator removes, and takes back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Cluster;
use crate::stage::Stage;
use crate::wait;

/// A removed peer says so and stops serving, stays so over a restart, and serves again with a new
/// token in the old one's place; an old token does not bring it back.
pub(in crate::story) fn removed_and_enrolled_again(stage: &Stage) -> Result<()> {
    let cluster = Cluster::up(stage)?;
    let held = cluster.publish("team/held")?;
    cluster.pull(&held)?;

    cluster.ctl.sh("flotilla peer remove node1")?;
    wait_removed(&cluster)?;
    ensure!(cluster.pull(&held).is_err(), "a removed peer serves");
    let (_, said) = cluster.node.answer("flotilla peer status")?;
    ensure!(said.contains("removed"), "flotilla peer status says: {said}");
    cluster.node.sh("systemctl restart --no-block flotilla-peer")?;
    wait_removed(&cluster)?;
    ensure!(cluster.pull(&held).is_err(), "a removed peer serves after a restart");

    let topology = cluster.ctl.sh("flotilla topology show")?;
    ensure!(!topology.contains("node1"), "still there: {topology}");
    cluster.bring_token()?;
    cluster.wait_node_ready()?;
    cluster.pull(&held)?;
    cluster.pull_new("team/again")?;
    let topology = cluster.ctl.sh("flotilla topology show")?;
    ensure!(topology.contains("node1"), "not there: {topology}");
    for (name, unit, role) in
        [("scheduler-eu-west", "flotilla-scheduler", "scheduler"), ("seed", "flotilla-peer", "seed")]
    {
        remove_and_enrol(&cluster, name, unit, role)?;
    }
    cluster.wait_node_ready()?;
    cluster.pull_new("team/all-again")
}

/// The daemons of a region's own machines are no different.
fn remove_and_enrol(cluster: &Cluster<'_>, name: &str, unit: &str, role: &str) -> Result<()> {
    let ctl = &cluster.ctl;
    ctl.sh(&format!("flotilla peer remove {name}"))?;
    wait::until("the unit says that it is removed", WAIT, || {
        Ok(ctl.property(unit, "StatusText")?.contains("removed").then_some(()))
    })?;
    ctl.sh(&format!(
        "flotilla token create --region eu-west --role {role} --uses 1 | tail -n 1 |
             install -m 640 -g flotilla /dev/stdin /etc/flotilla/tokens/{role}"
    ))?;
    let is_back = |line: &str| line.contains(&format!("{role} {name} ")) && line.ends_with("  connected");
    wait::until(&format!("{name} enrolled again"), WAIT, || {
        Ok(ctl.sh("flotilla topology show")?.lines().any(is_back).then_some(()))
    })
    .with_context(|| ctl.sh("flotilla topology show").unwrap_or_default())
}

fn wait_removed(cluster: &Cluster<'_>) -> Result<()> {
    wait::until("the unit says that it is removed", WAIT, || {
        let said = cluster.node.property("flotilla-peer", "StatusText")?;
        let ready = cluster.node.answer("curl -sf http://127.0.0.1:4005/readyz")?.0;
        Ok((said.contains("removed") && !ready).then_some(()))
    })
}

const WAIT: Duration = Duration::from_secs(30);
