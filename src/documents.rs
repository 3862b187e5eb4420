//! Completions and manual pages, from the same description that reads the command line.

use std::any::TypeId;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::builder::ValueHint;
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// What `flotilla completions` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// What `flotilla man` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write a page for flotilla and one for each subcommand here
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints a shell's completions.
pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut hinted(Cli::command()), "flotilla", &mut script);
    output::write(&script)
}

/// With what each argument's value is. Shells offer file names for what is said to be nothing.
fn hinted(command: Command) -> Command {
    let hint = |argument: Arg| {
        if !argument.get_action().takes_values() {
            return argument;
        }
        let names = argument.get_value_names().unwrap_or_default();
        let is_path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        let hint = match (is_path, names.iter().any(|name| name == "DIR")) {
            (true, true) => ValueHint::DirPath,
            (true, false) => ValueHint::FilePath,
            (false, _) => ValueHint::Other,
        };
        argument.value_hint(hint)
    };
    command.mut_args(hint).mut_subcommands(hinted)
}

/// Prints the manual page, or writes all of them.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<()> {
    let Some(directory) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).context("render the manual page")?;
        return output::write(&page);
    };
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Cli::command(), directory)
    };
    write().with_context(|| format!("write manual pages into {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    fn arguments(path: &[&str]) -> Vec<Arg> {
        let command = hinted(Cli::command());
        let found = path.iter().fold(&command, |command, name| command.find_subcommand(name).unwrap());
        found.get_arguments().cloned().collect()
    }

    #[test]
    fn files_are_offered_where_a_file_is_wanted_and_nowhere_else() {
        for (path, id, hint) in [
            (&["client", "setup"][..], "root", ValueHint::DirPath),
            (&["client", "setup"], "authfile", ValueHint::FilePath),
            (&["client", "setup"], "registry", ValueHint::Other),
            (&["client", "setup"], "peer", ValueHint::Other),
            (&["registry", "set"], "ca", ValueHint::FilePath),
            (&["registry", "set"], "offline_for", ValueHint::Other),
            (&["registry", "set"], "urls", ValueHint::Other),
            (&["token", "create"], "lifetime", ValueHint::Other),
            (&["peer"], "config", ValueHint::FilePath),
        ] {
            let found = arguments(path).into_iter().find(|argument| argument.get_id() == id).unwrap();
            assert_eq!(found.get_value_hint(), hint, "{path:?} --{id}");
        }
    }

    #[test]
    fn every_shells_script_is_made() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut hinted(Cli::command()), "flotilla", &mut script);
            assert!(!script.is_empty(), "{shell}");
        }
    }

    #[test]
    fn a_word_of_a_few_is_completed_from_them() {
        for (path, id, words) in [
            (&["token", "create"][..], "role", &["scheduler", "peer", "seed"][..]),
            (&["token", "create"], "output", &["table", "json", "yaml"]),
            (&["registry", "set"], "release", &["streaming", "verified"]),
            (&["registry", "set"], "offline", &["refuse", "granted"]),
            (&["registry", "set"], "count_pulls", &["true", "false"]),
            (&["registry", "set"], "grants", &["cached", "strict"]),
            (&["client", "setup"], "door", &["proxy", "mirror", "prefix", "sni"]),
        ] {
            let found = arguments(path).into_iter().find(|argument| argument.get_id() == id);
            let found =
                found.or_else(|| arguments(&path[..1]).into_iter().find(|it| it.get_id() == id)).unwrap();
            let values = found.get_possible_values();
            let names: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
            assert_eq!(names, words, "{path:?} --{id}");
        }
    }
}
