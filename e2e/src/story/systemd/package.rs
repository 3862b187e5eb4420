//! The package's own life on a machine whose daemons run.

use anyhow::{Result, ensure};

use super::{Cluster, INSTALL_TIMEOUT};
use crate::stage::Stage;

/// An upgrade restarts what runs and nothing else, removal stops it and keeps its state, a purge
/// leaves nothing; what the daemons said is in the journal as the journal has it.
pub(in crate::story) fn upgraded_removed_and_purged(stage: &Stage) -> Result<()> {
    let cluster = Cluster::up(stage)?;
    cluster.pull_new("team/before")?;
    assert_journal(&cluster)?;

    let node = &cluster.node;
    let before = node.property("flotilla-peer", "MainPID")?;
    node.sh_within("dpkg --install flotilla.deb", INSTALL_TIMEOUT)?;
    node.wait_restarted("flotilla-peer", &before, INSTALL_TIMEOUT)?;
    let scheduler = node.property("flotilla-scheduler", "ActiveState")?;
    ensure!(scheduler == "inactive", "the upgrade started a scheduler: {scheduler}");
    cluster.wait_node_ready()?;
    cluster.pull_new("team/upgraded")?;

    node.sh_within("dpkg --remove flotilla", INSTALL_TIMEOUT)?;
    ensure!(node.sh("pgrep flotilla || true")?.is_empty(), "a daemon outlived its package");
    node.sh("test -d /var/lib/flotilla/peer/identity && test -f /etc/flotilla/peer.toml")?;
    node.sh_within("dpkg --install flotilla.deb", INSTALL_TIMEOUT)?;
    node.sh("systemctl start flotilla-peer")?;
    cluster.wait_node_ready()?;
    cluster.pull_new("team/installed-again")?;

    node.sh_within("dpkg --purge flotilla", INSTALL_TIMEOUT)?;
    ensure!(node.sh("pgrep flotilla || true")?.is_empty(), "a daemon outlived a purge");
    let left = node.sh("find /etc /usr /var/lib /run/systemd -name '*flotilla*' -not -path '*/dpkg/*'")?;
    ensure!(left.is_empty(), "a purge left {left}");
    let failed = node.sh("systemctl --failed --plain --no-legend")?;
    ensure!(failed.is_empty(), "{failed}");
    Ok(())
}

/// Lines have no time stamp of their own, and a priority by which the journal can choose.
fn assert_journal(cluster: &Cluster<'_>) -> Result<()> {
    for (machine, unit) in [
        (&cluster.ctl, "flotilla-manager"),
        (&cluster.ctl, "flotilla-scheduler"),
        (&cluster.ctl, "flotilla-peer"),
        (&cluster.node, "flotilla-peer"),
    ] {
        let said = machine.journal(unit)?;
        let year = machine.sh("date +%Y-")?;
        ensure!(!said.contains(&year), "{unit} has the time twice: {said}");
        let asked = |words: &str| {
            machine.sh(&format!(
                "journalctl --no-pager --quiet --output=cat --unit={unit} {words} _COMM=flotilla"
            ))
        };
        let informed = asked("--priority=info..info")?;
        ensure!(!informed.is_empty(), "{unit} said nothing at priority info: {said}");
        let errors = asked("--priority=err")?;
        ensure!(errors.is_empty(), "{unit} said at priority err: {errors}");
    }
    Ok(())
}
