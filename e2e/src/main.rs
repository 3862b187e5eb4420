//! `cargo e2e`: tells the stories.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flotilla_e2e::lab::{self, LabPlan, LiarOrders};
use flotilla_e2e::machine;
use flotilla_e2e::runner;

/// Real clients, a real registry and the real daemons, each story in namespaces of its own.
#[derive(Debug, Parser)]
#[command(
    name = "flotilla-e2e",
    args_conflicts_with_subcommands = true,
    help_template = "{about-with-newline}\n{usage-heading} {usage}\n\n{all-args}{after-help}",
    after_help = "Stories are told one after the other; FLOTILLA_BIN=/path tests a binary that is already built."
)]
struct Cli {
    #[command(flatten)]
    stories: libtest_mimic::Arguments,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tells one story in the namespaces that this process was started in.
    #[command(hide = true)]
    OnStage { story: String, store: PathBuf, flotilla: PathBuf },
    /// Becomes process 1 of a machine in the namespaces that this process was started in.
    #[command(hide = true)]
    BootMachine { base: PathBuf, dir: PathBuf },
    /// Pulls one layer on every node of a region of real daemons with shaped links, and prints
    /// the figures beside the simulator's prediction as one JSON object.
    Lab(LabPlan),
    /// Is the attacker's peer of a lab.
    #[command(hide = true)]
    Liar(LiarOrders),
    /// Runs the lab in the namespaces that this process was started in.
    #[command(hide = true)]
    OnLab {
        store: PathBuf,
        flotilla: PathBuf,
        #[command(flatten)]
        plan: LabPlan,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.verb {
        None => runner::run_all(cli.stories),
        Some(Verb::OnStage { story, store, flotilla }) => runner::run_on_stage(&story, &store, &flotilla),
        Some(Verb::BootMachine { base, dir }) => {
            let Err(error) = machine::boot(&base, &dir);
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
        Some(Verb::Lab(plan)) => lab::run(&std::env::args().skip(2).collect::<Vec<_>>(), &plan),
        Some(Verb::Liar(orders)) => match lab::run_liar(&orders) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
        Some(Verb::OnLab { store, flotilla, plan }) => lab::run_on_lab(&plan, &store, &flotilla),
    }
}
