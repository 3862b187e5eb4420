//! Daemons that start before the network, die and hang.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Cluster, MANAGER_HOST, node};
use crate::stage::Stage;
use crate::wait;

/// A node whose name service is away at its first start waits, says for what, and joins by itself.
pub(in crate::story) fn first_start_without_dns(stage: &Stage) -> Result<()> {
    let cluster = Cluster::with_seed(stage, &node(""))?;
    cluster.bring_token()?;
    let node = &cluster.node;
    // systemd gives a unit up after five starts in ten seconds: this is longer.
    node.sh("systemctl enable --quiet --now --no-block flotilla-peer")?;
    let pid = wait::until("the unit says what it waits for", Duration::from_secs(20), || {
        let said = node.property("flotilla-peer", "StatusText")?;
        let pid = node.property("flotilla-peer", "MainPID")?;
        Ok((said.contains(MANAGER_HOST) && pid != "0").then_some(pid))
    })?;
    let warned = || node.sh("journalctl --no-pager --output=cat --unit=flotilla-peer --priority=warning");
    wait::until("more than one try", Duration::from_secs(40), || {
        Ok((warned()?.matches(MANAGER_HOST).count() >= 2).then_some(()))
    })?;
    let ready = node.answer("curl -s http://127.0.0.1:4005/readyz")?.1;
    ensure!(ready.contains("\"ready\":false") && ready.contains(MANAGER_HOST), "readyz says {ready}");
    assert_one_life(&cluster, &pid)?;

    node.sh(&format!("echo '10.98.0.1 {MANAGER_HOST}' >>/etc/hosts"))?;
    cluster.wait_node_ready()?;
    assert_one_life(&cluster, &pid)?;
    cluster.pull_new("team/after-dns")
}

/// It is the process that was started, and systemd did not start it again.
fn assert_one_life(cluster: &Cluster<'_>, pid: &str) -> Result<()> {
    let now = cluster.node.property("flotilla-peer", "MainPID")?;
    ensure!(now == pid, "process {pid} has become {now}");
    // Of a process that is not dumpable, the kernel gives these files to root.
    let owner = cluster.node.sh(&format!("stat --format=%U /proc/{pid}/mem"))?;
    ensure!(owner == "root", "the memory of the daemon is {owner}'s to read");
    let restarts = cluster.node.property("flotilla-peer", "NRestarts")?;
    ensure!(restarts == "0", "systemd started it again {restarts} times");
    Ok(())
}

/// Each daemon that is killed comes back and works; one that hangs is found out and replaced.
pub(in crate::story) fn killed_or_hung(stage: &Stage) -> Result<()> {
    let cluster = Cluster::up(stage)?;
    cluster.pull_new("team/before")?;
    let units = [
        (&cluster.ctl, "flotilla-manager", "manager"),
        (&cluster.ctl, "flotilla-scheduler", "scheduler"),
        (&cluster.ctl, "flotilla-peer", "seed"),
        (&cluster.node, "flotilla-peer", "peer"),
    ];
    for (machine, unit, role) in units {
        let before = machine.property(unit, "MainPID")?;
        machine.sh(&format!("systemctl kill --signal=KILL {unit}"))?;
        machine.wait_restarted(unit, &before, RESTART_TIMEOUT)?;
        cluster.wait_node_ready()?;
        cluster.pull_new(&format!("team/killed-{role}"))?;
        ensure!(machine.property(unit, "NRestarts")? == "1", "{unit} was started more than once");
    }
    hang(&cluster)?;
    cluster.pull_new("team/after")?;
    cluster.ctl.sh("flotilla topology show").map(drop)
}

/// systemd ends a peer that no longer says that it lives, and only such a one.
fn hang(cluster: &Cluster<'_>) -> Result<()> {
    let node = &cluster.node;
    node.sh("mkdir -p /etc/systemd/system/flotilla-peer.service.d
         printf '[Service]\\nWatchdogSec=3s\\n' >/etc/systemd/system/flotilla-peer.service.d/soon.conf
         systemctl daemon-reload
         systemctl restart flotilla-peer")?;
    let before = node.property("flotilla-peer", "MainPID")?;
    cluster.wait_node_ready()?;
    // It outlives its watchdog several times over while it works: pulls go on meanwhile.
    let lives = std::time::Instant::now();
    let mut pull = 0;
    while lives.elapsed() < Duration::from_secs(8) {
        cluster.pull_new(&format!("team/alive-{pull}"))?;
        pull += 1;
    }
    let now = node.property("flotilla-peer", "MainPID")?;
    ensure!(now == before, "a peer that works was replaced: {}", node.journal("flotilla-peer")?);

    node.sh("systemctl kill --signal=STOP flotilla-peer")?;
    node.wait_restarted("flotilla-peer", &before, RESTART_TIMEOUT)?;
    cluster.wait_node_ready()
}

const RESTART_TIMEOUT: Duration = Duration::from_secs(30);
