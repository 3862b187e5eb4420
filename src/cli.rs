//! The command line, as clap reads it. Every subcommand's help ends with an example.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use flotilla_proto::PeerId;

use flotilla_manager::cli::{
    ContextCommand, ManagerArgs, RegionCommand, RegistryCommand, TokenCommand, TopologyCommand,
};

use crate::client::ClientCommand;
use crate::documents::{CompletionsArgs, ManArgs};
use crate::health::HealthArgs;
use crate::join::JoinArgs;
use crate::local::demo::DemoArgs;
use crate::local::up::UpArgs;
use crate::peer_status::PeerStatusArgs;
use crate::verify::VerifyArgs;

/// P2P distribution of container-image layers: one pull from the registry, the fleet carries
/// the rest.
#[derive(Debug, Parser)]
#[command(
    name = "flotilla",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Example: watch an image spread through a region on this machine\n  flotilla demo"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// All subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the manager: topology, identity and settings of all regions
    #[command(after_help = "Example:\n  flotilla manager --config /etc/flotilla/manager.toml")]
    Manager(DaemonArgs),

    /// Run a region's scheduler: who fetches what from whom
    #[command(
        args_conflicts_with_subcommands = true,
        override_usage = "flotilla scheduler [--config FILE] [--check]\n       flotilla scheduler <COMMAND>",
        after_help = "Example: check a configuration without starting\n  \
                      flotilla scheduler --config /etc/flotilla/scheduler.toml --check"
    )]
    Scheduler(SchedulerArgs),

    /// Run a node's peer, or ask about peers
    #[command(
        args_conflicts_with_subcommands = true,
        override_usage = "flotilla peer [--config FILE] [--check]\n       flotilla peer <COMMAND>",
        after_help = "Examples:\n  flotilla peer --config /etc/flotilla/peer.toml\n  flotilla peer status"
    )]
    Peer(PeerArgs),

    /// Regions: list, add, remove
    #[command(after_help = "Example:\n  flotilla region add eu-west --description 'Dublin and Paris'")]
    Region(Asked<RegionCommand>),

    /// Registries whose images are carried: list, set, remove
    #[command(after_help = "Example:\n  \
        flotilla registry set harbor.example.com \\\n      \
        --url https://harbor.example.com --ca ca.pem")]
    Registry(Asked<RegistryCommand>),

    /// Join tokens: create, list, revoke
    #[command(after_help = "Example:\n  flotilla token create --region eu-west --role peer --lifetime 1h")]
    Token(Asked<TokenCommand>),

    /// Managers and administrators by name: list, use, add, remove
    #[command(after_help = "Example:\n  flotilla context add prod --manager m.example.com \
                      --identity ~/prod-admin")]
    Context(Asked<ContextCommand>),

    /// The whole topology at a glance
    #[command(after_help = "Example:\n  flotilla topology show")]
    Topology(Asked<TopologyCommand>),

    /// Run a whole region on this machine
    #[command(after_help = "Example: serve reg.test from a registry on this machine\n  \
                            flotilla up --registry reg.test=http://127.0.0.1:5000 --peers 3")]
    Up(UpArgs),

    /// Run a whole region on this machine and pull an image through it
    #[command(after_help = "Examples:\n  flotilla demo --peers 4 --clients 3 --size '1 GiB'\n  \
                            flotilla demo --image reg.test/app/web:v7 \\\n      \
                            --registry reg.test=https://reg.test:5000,ca=ca.pem")]
    Demo(DemoArgs),

    /// Clients of this machine: point them at its peer
    #[command(after_help = "Example:\n  flotilla client setup docker --registry harbor.example.com")]
    Client {
        #[command(subcommand)]
        command: ClientCommand,
    },

    /// Pull an image through this node's peer, and prove where its bytes came from
    #[command(after_help = "Examples:\n  flotilla verify harbor.example.com/app/web:v7\n  \
                            flotilla verify harbor.example.com/app/web:v7 \\\n      --door proxy --authfile auth.json")]
    Verify(VerifyArgs),

    /// Ask a daemon whether it is well; for health checks of containers
    #[command(after_help = "Example:\n  flotilla health --url http://127.0.0.1:4005/healthz")]
    Health(HealthArgs),

    /// Print the completions of a shell
    #[command(after_help = "Example:\n  flotilla completions bash > /etc/bash_completion.d/flotilla")]
    Completions(CompletionsArgs),

    /// Print the manual page, or write the pages of all subcommands
    #[command(after_help = "Example:\n  flotilla man --dir /usr/local/share/man/man1")]
    Man(ManArgs),
}

/// What every daemon takes.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// The configuration file; without one, the defaults hold
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Check the configuration, print what it comes to, and exit
    #[arg(long)]
    pub(crate) check: bool,

    /// Stop when the standard input ends: `flotilla up` holds its other end
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

/// `flotilla peer` alone is the daemon; with a verb it is a question.
#[derive(Debug, Args)]
pub(crate) struct PeerArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,

    #[command(subcommand)]
    pub(crate) verb: Option<PeerVerb>,
}

/// `flotilla scheduler` alone is the daemon.
#[derive(Debug, Args)]
pub(crate) struct SchedulerArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,

    #[command(subcommand)]
    pub(crate) verb: Option<SchedulerVerb>,
}

/// What can be done to a scheduler of this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum SchedulerVerb {
    /// Put a join token and the manager's addresses where this machine's scheduler looks for them
    #[command(after_help = "Example:\n  flotilla scheduler join token --manager manager.example.com:4000")]
    Join(JoinArgs),
}

/// A command to the manager: which one, and what.
#[derive(Debug, Args)]
pub(crate) struct Asked<C: Subcommand> {
    #[command(flatten)]
    pub(crate) manager: ManagerArgs,

    #[command(subcommand)]
    pub(crate) command: C,
}

/// Questions about peers.
#[derive(Debug, Subcommand)]
pub(crate) enum PeerVerb {
    /// Ask a running peer what it holds, whom it knows and what it does
    #[command(after_help = "Example:\n  flotilla peer status --output yaml")]
    Status(PeerStatusArgs),

    /// Put a join token and the manager's addresses where this machine's peer looks for them
    #[command(after_help = "Example:\n  flotilla peer join token --manager manager.example.com:4000")]
    Join(JoinArgs),

    /// List the daemons that have enrolled, as the manager knows them
    #[command(after_help = "Example:\n  flotilla peer list --output yaml")]
    List(ManagerArgs),

    /// Remove a daemon: it gets no settings and no new certificate any more
    #[command(after_help = "Example:\n  flotilla peer remove node-17")]
    Remove {
        #[command(flatten)]
        manager: ManagerArgs,

        /// Its name
        id: PeerId,
    },
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_an_example() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{} has no example", command.get_name());
            commands.extend(command.get_subcommands().cloned());
        }
    }

    /// The words of a command, as a shell reads them up to a comment, a pipe or a further command.
    fn words(command: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in command.split(['\'', '"']).enumerate() {
            if index % 2 == 1 {
                words.push(part.to_owned());
                continue;
            }
            for word in part.split_whitespace() {
                if word.starts_with('#') || ["|", "&&", ">"].contains(&word) {
                    return words;
                }
                words.push(word.trim_end_matches(';').to_owned());
            }
        }
        words
    }

    /// The examples of all commands' help, with the lines that they stand in.
    fn examples() -> Vec<String> {
        let (mut found, mut commands) = (Vec::new(), vec![Cli::command()]);
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let help = help.replace("\\\n", CONTINUED);
            let examples = help.lines().filter(|line| line.starts_with("  flotilla"));
            found.extend(examples.map(|example| example.replace(CONTINUED, "\\\n")));
            commands.extend(command.get_subcommands().cloned());
        }
        found
    }

    /// The commands in blocks of `sh` that begin with `flotilla`, wherever in a line.
    fn pasted(markdown: &str) -> Vec<String> {
        let blocks = markdown.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let lines: Vec<String> = blocks.map(|block| block.replace("\\\n", " ")).collect();
        let lines = lines.iter().flat_map(|block| block.lines());
        let commands = lines.flat_map(|line| line.split(" && ")).filter(|line| line.starts_with("flotilla "));
        commands.map(ToOwned::to_owned).collect()
    }

    #[test]
    fn what_the_documents_say_can_be_pasted() {
        let mut count = 0;
        for (file, text) in [
            ("README.md", include_str!("../README.md")),
            ("docs/lifecycle.md", include_str!("../docs/lifecycle.md")),
            ("docs/packages.md", include_str!("../docs/packages.md")),
            ("docs/troubleshooting.md", include_str!("../docs/troubleshooting.md")),
            ("docs/why.md", include_str!("../docs/why.md")),
        ] {
            for command in pasted(text) {
                let parsed = Cli::try_parse_from(words(&command));
                assert!(parsed.is_ok(), "{file}: {command}\n{}", parsed.unwrap_err());
                count += 1;
            }
        }
        assert!(count > 15, "{count} commands were found");
    }

    #[test]
    fn examples_can_be_pasted() {
        let examples = examples();
        assert!(examples.len() > 30, "{}", examples.len());
        for text in examples {
            // A terminal of 80 columns wraps nothing, and a shell reads what is meant.
            assert!(text.lines().all(|line| line.len() < 80), "too wide:\n{text}");
            let words = words(&text.replace("\\\n", " "));
            assert!(Cli::try_parse_from(&words).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn a_peer_without_a_verb_is_the_daemon() {
        let peer = |arguments: &[&str]| {
            let arguments = ["flotilla", "peer"].into_iter().chain(arguments.iter().copied());
            match Cli::try_parse_from(arguments) {
                Ok(Cli { command: Command::Peer(args) }) => Ok(args),
                Ok(other) => panic!("{other:?} is no peer"),
                Err(error) => Err(error.kind()),
            }
        };
        let daemon = peer(&["--config", "peer.toml", "--check"]).unwrap();
        assert!(daemon.verb.is_none() && daemon.daemon.check);
        assert!(peer(&[]).unwrap().verb.is_none());
        assert!(matches!(peer(&["status"]).unwrap().verb, Some(PeerVerb::Status(_))));
        assert_eq!(peer(&["--check", "status"]).unwrap_err(), ErrorKind::ArgumentConflict);
    }

    /// In place of a line's end that the shell does not see.
    const CONTINUED: &str = "\u{1}";
}
