//! `cargo sim`: lists scenarios, runs them, holds them against their gates.

mod cli;
mod heap;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::Seeds;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

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
        /// Run so many seeds from `--seed` on, and print their medians.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
        seeds: u64,
        /// Print one JSON object a history.
        #[arg(long)]
        json: bool,
    },
    /// Says why a peer was sent a piece of the first blob by whom it was.
    Explain {
        /// One of those that `list` shows.
        name: String,
        /// The peer's number, from 0 on.
        #[arg(long)]
        peer: usize,
        /// The piece's index.
        #[arg(long)]
        piece: u32,
        /// The seed of all randomness.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Holds the scenarios against their gates; fails if one is missed.
    Gates {
        /// Only what runs in a few minutes.
        #[arg(long)]
        quick: bool,
        /// Only this scenario.
        #[arg(long)]
        only: Option<String>,
        /// How many seeds, from 1 on.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
        seeds: u64,
    },
    /// Draws when which share of the peers is done: ours, the lower bound, a random graph.
    Plot {
        /// One of those that `list` shows.
        name: String,
        /// Where the SVG goes.
        #[arg(long)]
        out: PathBuf,
        /// The seed of all randomness.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

const EXAMPLES: &str = "Examples:
  cargo sim -- list
  cargo sim -- run even-12
  cargo sim -- run seed-dies --seed 7 --json
  cargo sim -- run even-200 --seeds 5
  cargo sim -- explain even-12 --peer 3 --piece 100
  cargo sim -- gates --quick
  cargo sim -- plot even-200 --out curves.svg";

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::List => {
            cli::list();
            Ok(())
        }
        Verb::Run { name, seed, seeds, json } => cli::run(&name, Seeds { first: seed, count: seeds }, json),
        Verb::Explain { name, peer, piece, seed } => cli::explain(&name, seed, peer, piece),
        Verb::Gates { quick, only, seeds } => {
            cli::gates(quick, only.as_deref(), Seeds { first: 1, count: seeds })
        }
        Verb::Plot { name, out, seed } => cli::plot(&name, seed, &out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
