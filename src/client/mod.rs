//! `flotilla client setup`: this machine's clients are told where the peer is, and told to
//! forget it again.
//!
//! A `plan` says what each file shall be (one module for each client, pure edits in `edit`),
//! `apply` writes what differs, `journal` keeps what was there, `undo` puts it back.

mod apply;
mod buildkit;
mod carrier;
mod containerd;
mod diff;
mod docker;
mod edit;
mod journal;
mod plan;
mod podman;
mod report;
mod request;
mod restart;
mod systemd;
mod tree;
mod undo;

use std::path::PathBuf;

use anyhow::Context as _;
use flotilla_manager::cli::OutputFormat;
use flotilla_proto::RegistryHost;
use hyper::Uri;

use self::carrier::Carrier;
use self::journal::{Journal, Setup};
use self::plan::{Plan, PlanError};
use self::report::Report;
use self::request::{Client, DoorName, Request};
use self::tree::Tree;
use self::undo::Undo;
use crate::output;

pub(crate) use self::edit::key_of;
pub(crate) use self::request::{PeerUrl, ca_file, usual_data_dir};

/// What can be done with clients.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClientCommand {
    /// Point a client of this machine at the peer, or take that back
    #[command(after_help = "Examples:\n  \
        flotilla client setup docker --registry harbor.example.com --dry-run\n  \
        flotilla client setup containerd --registry harbor.example.com\n  \
        flotilla client setup containerd --registry harbor.example.com --undo")]
    Setup(SetupArgs),
}

/// What `flotilla client setup` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct SetupArgs {
    /// Whom to set up
    #[arg(value_enum)]
    client: Client,

    /// The registry, as image names have it: HOST or HOST:PORT
    #[arg(long, value_name = "HOST", required_unless_present = "undo")]
    registry: Option<RegistryHost>,

    /// The front door (default: proxy for docker, but mirror for docker.io; mirror for all others)
    #[arg(long, value_enum, value_name = "DOOR")]
    door: Option<DoorName>,

    /// Where the doors of this machine's peer are (default: where the peer says)
    #[arg(long, value_name = "URL")]
    peer: Option<PeerUrl>,

    /// The admin address of this machine's peer: it is asked for its doors and its registries
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4005")]
    admin: Uri,

    /// The peer's data directory on this machine: its CAs are there
    #[arg(long, value_name = "DIR", default_value_os = usual_data_dir().as_os_str())]
    data_dir: PathBuf,

    /// The auth.json with the registry's credentials, for podman and crio (default: the usual places)
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// Docker's proxy goes into daemon.json, not into a drop-in of systemd: dockerd 23 or later
    #[arg(long)]
    daemon_json: bool,

    /// Read and write the client's files below another root: an image, a disk that is mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// Show what would be written, as `patch -p1 -d /` takes it, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Put back what was there before; without --registry, for all registries of the client
    #[arg(long)]
    undo: bool,

    /// How to print what was done
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    output: OutputFormat,
}

/// Does it and prints what was done.
pub(crate) async fn client(command: ClientCommand) -> anyhow::Result<()> {
    let ClientCommand::Setup(args) = command;
    let tree = Tree::at(&args.root).context("open --root")?;
    let format = args.output;
    let report = match &args.registry {
        _ if args.undo => undo(&args, &tree)?,
        Some(registry) => {
            let carrier = carrier::find(&args, registry).await?;
            let mut report = setup(&request(&args, registry, &carrier), &tree, args.dry_run)?;
            report.note(carrier.note);
            report
        }
        None => anyhow::bail!("--registry is missing"),
    };
    let text = format.render(&report, Report::for_people).context("write the answer")?;
    output::print(text.trim_end())
}

fn request(args: &SetupArgs, registry: &RegistryHost, carrier: &Carrier) -> Request {
    Request {
        client: args.client,
        door: args.door.unwrap_or(args.client.usual_door(registry)),
        registry: registry.clone(),
        peer: carrier.peer.clone(),
        carried: carrier.carried.clone(),
        data_dir: args.data_dir.clone(),
        authfile: args.authfile.clone(),
        daemon_json: args.daemon_json,
    }
}

fn setup(request: &Request, tree: &Tree, dry_run: bool) -> anyhow::Result<Report> {
    let plan = plan(request, tree)?;
    if !dry_run {
        let setup = Setup { client: request.client, registry: request.registry.to_string() };
        apply::apply(tree, &setup, &plan.edits)?;
    }
    let restart = restart::note(request.client, tree)?;
    Ok(Report::of_setup(request, plan, dry_run, restart))
}

fn plan(request: &Request, tree: &Tree) -> Result<Plan, PlanError> {
    match request.client {
        Client::Docker => docker::plan(request, tree),
        Client::Containerd => containerd::plan(request, tree),
        Client::Podman | Client::Crio => podman::plan(request, tree),
        Client::Buildkit => buildkit::plan(request, tree),
    }
}

fn undo(args: &SetupArgs, tree: &Tree) -> anyhow::Result<Report> {
    let registry = args.registry.as_ref().map(ToString::to_string);
    let gone = |setup: &Setup| {
        let is_of = |registry: &RegistryHost| setup.registry.parse().as_ref() == Ok(registry);
        setup.client == args.client && args.registry.as_ref().is_none_or(is_of)
    };
    let known = Journal::open(tree, false)?;
    let any = known.changes.iter().any(|change| change.setups.iter().any(gone));
    let mut journal = if any && !args.dry_run { Journal::open(tree, true)? } else { known };
    let undo = Undo::of(tree, &journal, gone)?;
    let steps = if any && !args.dry_run { undo.perform(tree, &mut journal)? } else { undo.steps };
    let restart = restart::note(args.client, tree)?;
    Ok(Report::of_undo(args.client, registry, &steps, args.dry_run, restart))
}

#[cfg(test)]
mod tests;
