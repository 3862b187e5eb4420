//! What each verb of the command line does.

mod gates;
mod table;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flotilla_e2e_sim::catalogue::{self, UnknownScenario};
use flotilla_e2e_sim::plot::{Curve, completion_curves};
use flotilla_e2e_sim::{Answer, History, Probe, Report, Scenario, Violation, baseline, lower_bound};

use crate::heap::heap_bytes;

pub(crate) use gates::gates;

pub(crate) fn list() {
    let scenarios = catalogue::all();
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or_default();
    for scenario in scenarios {
        println!("{:width$}  {}", scenario.name, scenario.about);
    }
}

/// Which histories to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeds {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

pub(crate) fn run(name: &str, seeds: Seeds, json: bool) -> Result<(), Failure> {
    let scenario = catalogue::find(name)?;
    let mut reports = Vec::new();
    for seed in seeds.first..seeds.first + seeds.count {
        let History { report, log_hash, .. } = history(&scenario, seed)?;
        if json {
            println!("{}", serde_json::to_string(&report).expect("figures and a name serialise"));
        } else if seeds.count == 1 {
            println!("{}\nhistory          {}", table::in_words(&report), &log_hash[..16]);
        }
        reports.push(report);
    }
    if !json && seeds.count > 1 {
        println!("{}", table::of_seeds(&reports));
    }
    Ok(())
}

pub(crate) fn explain(name: &str, seed: u64, peer: usize, piece: u32) -> Result<(), Failure> {
    let scenario = catalogue::find(name)?;
    let broken = |violation| Failure::Broken { name: scenario.name, seed, violation };
    if peer >= scenario.peers.len() {
        return Err(Failure::NoSuchPeer { name: scenario.name, peers: scenario.peers.len() });
    }
    let answers = flotilla_e2e_sim::explain(&scenario, seed, peer, piece).map_err(broken)?;
    if answers.is_empty() {
        println!("piece {piece} was never given to peer-{peer}");
    }
    for Answer { at, parent, seen, parent_key } in answers {
        let at = at.as_secs_f64();
        match (seen, parent_key) {
            (Some(seen), Some(key)) => println!("{at:.6} s: from {parent}, parent {key} of\n{seen}"),
            _ => println!("{at:.6} s: from {parent}, which peer-{peer} picked by itself"),
        }
    }
    Ok(())
}

pub(crate) fn plot(name: &str, seed: u64, out: &PathBuf) -> Result<(), Failure> {
    let scenario = catalogue::find(name)?;
    let ours = history(&scenario, seed)?.done;
    let random = baseline::completions(&scenario, seed);
    let curves = [
        Curve { name: "Flotilla", class: "ours", done: &ours },
        Curve { name: "random graph, random pieces", class: "other", done: &random },
    ];
    let svg = completion_curves(&format!("{name}, seed {seed}"), lower_bound(&scenario, seed), &curves);
    fs::write(out, svg).map_err(|source| Failure::Write { path: out.clone(), source })
}

/// One history, measured, with its progress on a terminal.
fn history(scenario: &Scenario, seed: u64) -> Result<History, Failure> {
    let probe = Probe { clock, heap_bytes, progress };
    let done = flotilla_e2e_sim::run_probed(scenario, seed, Some(probe));
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
    done.map_err(|violation| Failure::Broken { name: scenario.name, seed, violation })
}

fn progress(now: Duration, unfinished: usize) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // A terminal that is gone is no reason to stop.
        let _ = write!(stderr, "\r\x1b[2K{:.2} s simulated, {unfinished} peers not done", now.as_secs_f64());
    }
}

/// The one clock that is read: it measures the planner, and decides nothing.
#[expect(clippy::disallowed_methods, reason = "see above")]
fn clock() -> Duration {
    use std::sync::OnceLock;
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    Instant::now().duration_since(*BEGAN.get_or_init(Instant::now))
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Unknown(#[from] UnknownScenario),
    #[error("{name} with seed {seed}: {violation}")]
    Broken { name: &'static str, seed: u64, violation: Violation },
    #[error("{name} has {peers} peers, from 0 on")]
    NoSuchPeer { name: &'static str, peers: usize },
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{missed} gates were missed")]
    GatesMissed { missed: usize },
}
