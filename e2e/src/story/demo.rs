//! `flotilla demo` proves what it shows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::process;
use crate::stage::Stage;

/// What `flotilla demo --json` prints, as far as the story goes.
#[derive(Debug, Deserialize)]
struct Report {
    bytes: u64,
    peers: usize,
    clients_per_peer: usize,
    source_bytes: u64,
    source_ratio: f64,
    nodes: Vec<Node>,
    verified: bool,
}

#[derive(Debug, Deserialize)]
struct Node {
    name: String,
    bytes: NodeBytes,
}

#[derive(Debug, Deserialize)]
struct NodeBytes {
    store: u64,
    peer: u64,
    seed: u64,
    registry: u64,
}

pub(super) fn reads_the_registry_once(stage: &Stage) -> Result<()> {
    run(stage, "256 MiB", 256 << 20)
}

pub(super) fn of_tiny_layers_reads_the_registry_once(stage: &Stage) -> Result<()> {
    run(stage, "40 KiB", 40 << 10)
}

fn run(stage: &Stage, size: &str, layer_bytes: u64) -> Result<()> {
    let mut command = stage.flotilla();
    command.args(["demo", "--peers", "4", "--clients", "3", "--size", size, "--layers", "6", "--json"]);
    let json = process::run(&stage.logs(), "demo", command, Duration::from_secs(180))?.success()?;
    let report: Report = serde_json::from_str(&json).with_context(|| format!("not a report: {json}"))?;

    ensure!(report.verified, "not verified: {report:?}");
    ensure!(report.source_ratio <= 1.01, "the registry was read {} times", report.source_ratio);
    ensure!(report.source_bytes >= report.bytes, "fewer bytes were read than there are: {report:?}");
    ensure!(report.bytes >= layer_bytes, "the layers are smaller than asked: {report:?}");
    ensure!((report.peers, report.clients_per_peer) == (4, 3), "not what was asked: {report:?}");
    ensure!(report.nodes.len() == 4, "a node is missing: {report:?}");
    for node in &report.nodes {
        let NodeBytes { store, peer, seed, registry } = node.bytes;
        let all = store + peer + seed + registry;
        ensure!(all >= report.bytes, "{} accounts for {all} of {} bytes", node.name, report.bytes);
        ensure!(registry == 0, "{} read {registry} bytes from the registry itself", node.name);
    }
    Ok(())
}
