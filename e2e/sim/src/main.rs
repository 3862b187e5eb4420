//! `cargo sim`: lists scenarios and runs them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flotilla_e2e_sim::catalogue::{self, UnknownScenario};
use flotilla_e2e_sim::{History, Report, Violation};

/// A deterministic region: the real cores of scheduler and peers over modelled links.
#[derive(Debug, Parser)]
#[command(name = "flotilla-e2e-sim", bin_name = "cargo sim --", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists the scenarios.
    List,
    /// Runs a scenario, checks what always holds, and prints its figures.
    #[command(after_help = EXAMPLES)]
    Run {
        /// One of those that `list` shows.
        name: String,
        /// The seed of all randomness: equal seeds give equal histories.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

const EXAMPLES: &str = "Examples:
  cargo sim -- list
  cargo sim -- run even-12
  cargo sim -- run seed-dies --seed 7 --json";

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::List => {
            list();
            Ok(())
        }
        Verb::Run { name, seed, json } => run(&name, seed, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    let scenarios = catalogue::all();
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or_default();
    for scenario in scenarios {
        println!("{:width$}  {}", scenario.name, scenario.about);
    }
}

fn run(name: &str, seed: u64, json: bool) -> Result<(), Failure> {
    let scenario = catalogue::find(name)?;
    let broken = |violation| Failure::Broken { name: scenario.name, seed, violation };
    let History { report, log_hash } = flotilla_e2e_sim::run(&scenario, seed).map_err(broken)?;
    if json {
        println!("{}", serde_json::to_string(&report).expect("figures and a name serialise"));
    } else {
        println!("{}", in_words(&report));
        println!("history {}", &log_hash[..16]);
    }
    Ok(())
}

fn in_words(report: &Report) -> String {
    let Report { scenario, seed, peers, bytes, piece_len, lower_bound_s, .. } = report;
    format!(
        "{scenario}, seed {seed}: {peers} peers, {bytes} bytes in pieces of {piece_len}\n\
         lower bound   {lower_bound_s:8.3} s\n\
         last peer     {:8.3} s   {:.3} of the bound\n\
         99 of 100     {:8.3} s   {:.3}\n\
         half          {:8.3} s   {:.3}\n\
         last client   {:8.3} s   {:.3}\n\
         silence       {:8.3} s   at most\n\
         source ratio  {:8.4}\n\
         wasted        {:8.4}\n\
         control       {:8.3} messages a piece",
        report.last_s,
        report.ratio_last,
        report.p99_s,
        report.ratio_p99,
        report.p50_s,
        report.ratio_p50,
        report.client_last_s,
        report.ratio_client_last,
        report.longest_silence_s,
        report.source_ratio,
        report.wasted_ratio,
        report.control_messages_per_piece,
    )
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unknown(#[from] UnknownScenario),
    #[error("{name} with seed {seed}: {violation}")]
    Broken { name: &'static str, seed: u64, violation: Violation },
}
