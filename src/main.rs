//! `flotilla`: every daemon and every command of it in one executable.
//!
//! This file is the table of contents. What the daemons and the topology commands do is in
//! their crates; here is only what joins them on one machine and what the command line owes
//! a person.

mod absent;
mod bytes_by_source;
mod cli;
mod client;
mod daemons;
mod documents;
mod health;
mod http;
mod join;
mod local;
mod local_peer;
mod oci_client;
mod output;
mod peer_status;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use flotilla_manager::cli::PeerCommand;
use tokio::runtime::Runtime;

use cli::{Cli, Command, PeerVerb, SchedulerVerb};
use join::Joining;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", output::explain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = Runtime::new().context("start the runtime")?;
    let done = runtime.block_on(dispatch(command));
    runtime.shutdown_timeout(LINGER);
    done
}

async fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Manager(args) => daemons::manager(args).await,
        Command::Scheduler(args) => match args.verb {
            None => daemons::scheduler(args.daemon).await,
            Some(SchedulerVerb::Join(args)) => join::join(Joining::Scheduler, args),
        },
        Command::Peer(args) => match args.verb {
            None => daemons::peer(args.daemon).await,
            Some(PeerVerb::Join(args)) => join::join(Joining::Peer, args),
            Some(PeerVerb::Status(args)) => peer_status::peer_status(args).await,
            Some(PeerVerb::List(manager)) => print(&PeerCommand::List.execute(&manager).await?),
            Some(PeerVerb::Remove { manager, id }) => {
                print(&PeerCommand::Remove { id }.execute(&manager).await?)
            }
        },
        Command::Region(asked) => print(&asked.command.execute(&asked.manager).await?),
        Command::Registry(asked) => print(&asked.command.execute(&asked.manager).await?),
        Command::Token(asked) => print(&asked.command.execute(&asked.manager).await?),
        Command::Context(asked) => print(&asked.command.execute(&asked.manager)?),
        Command::Topology(asked) => print(&asked.command.execute(&asked.manager).await?),
        Command::Up(args) => local::up::up(args).await,
        Command::Demo(args) => local::demo::demo(args).await,
        Command::Client { command } => client::client(command).await,
        Command::Verify(args) => verify::verify(args).await,
        Command::Health(args) => health::health(args).await,
        Command::Completions(args) => documents::completions(&args),
        Command::Man(args) => documents::man(&args),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    output::print(text.trim_end())
}

/// For a thread that is in the middle of a file when Ctrl-C comes: nobody wants its work.
const LINGER: Duration = Duration::from_millis(500);
