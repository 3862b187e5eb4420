//! The registries' own conformance suite, of the OCI distribution specification.
//!
//! It is a Go program: `go install github.com/opencontainers/distribution-spec/conformance@main`.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::origin::Origin;
use crate::process;
use crate::region::Region;
use crate::stage::{REGISTRY_HOST, Side, Stage};

/// Names the suite's program.
pub(super) const PROGRAM: &str = "OCI_CONFORMANCE";

/// Pushes, mounts, deletes and reads: whatever the registry does right, it does right through the `proxy` door. It
/// does not do all of it right.
pub(super) fn finds_the_same(stage: &Stage) -> Result<()> {
    let origin = Origin::start(stage)?;
    let region = Region::up(stage, &origin.ca(), 1)?;
    let peer = region.peers().next().context("no peer")?;
    let ca = origin.ca().to_string_lossy().into_owned();
    let direct = ask(stage, Side::Origin, "direct", &[("SSL_CERT_FILE", &ca)])?;
    let trusted = peer.ca.to_string_lossy();
    let through = [("SSL_CERT_FILE", &*trusted), ("HTTPS_PROXY", &peer.door)];
    let proxied = ask(stage, Side::Client, "proxied", &through)?;
    stage.report(&format!(
        "of {} tests {} fail directly, {} through the door\n",
        direct.asked,
        direct.failed.len(),
        proxied.failed.len()
    ))?;
    ensure!(
        direct.asked > 0 && direct.asked == proxied.asked,
        "{} asked, then {}",
        direct.asked,
        proxied.asked
    );
    let new: Vec<_> = proxied.failed.difference(&direct.failed).collect();
    ensure!(new.is_empty(), "fail through the door alone: {new:#?}");
    region.assert_no_error_logged()
}

/// What the suite found.
struct Found {
    /// The number of its tests.
    asked: usize,
    /// The names of those that fail.
    failed: BTreeSet<String>,
}

fn ask(stage: &Stage, side: Side, run: &str, variables: &[(&str, &str)]) -> Result<Found> {
    let program = env::var(PROGRAM).with_context(|| format!("{PROGRAM} names no program"))?;
    let results = stage.dir(format!("suite/{run}"))?;
    let mut command = stage.command(side, &program);
    command.env("OCI_REGISTRY", REGISTRY_HOST).env("OCI_RESULTS_DIR", &results);
    command.env("OCI_REPO1", format!("suite/{run}-one")).env("OCI_REPO2", format!("suite/{run}-two"));
    command.envs(variables.iter().copied());
    // It ends with 1 when anything fails; the registry's own faults do.
    let log = process::run(&stage.logs(), run, command, SUITE_TIMEOUT)?.said()?;
    let report = fs::read_to_string(results.join("junit.xml")).with_context(|| log.clone())?;
    let failed =
        log.lines().filter_map(|line| line.split_once("msg=\"failed test\" name=\"")?.1.split('"').next());
    Ok(Found { asked: report.matches("<testcase").count(), failed: failed.map(str::to_owned).collect() })
}

const SUITE_TIMEOUT: Duration = Duration::from_secs(120);
