//! `flotilla context`: which manager the command line asks, and as whom, kept by name.
//!
//! One file, `contexts.toml` in the user's configuration directory (`$XDG_CONFIG_HOME/flotilla`,
//! else `~/.config/flotilla`), readable by its user alone. It holds no secret: an identity
//! is named by its directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use flotilla_daemon::files::{Access, create_private_dir, write_atomic};
use flotilla_daemon::identity::ManagerUrl;
use serde::{Deserialize, Serialize};

use super::output::table;
use super::{CliError, ManagerArgs};

/// Managers and identities by name
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ContextCommand {
    /// List the contexts; the one in use is marked
    #[command(after_help = "Example:\n  flotilla context list")]
    List,
    /// Use a context from now on
    #[command(after_help = "Example:\n  flotilla context use prod")]
    Use {
        /// Its name
        name: String,
    },
    /// Add a context, or change it, from --manager and --identity; the first one is used at once
    #[command(after_help = "Example:\n  flotilla context add prod --manager m.example.com \
                      --identity ~/prod-admin")]
    Add {
        /// Its name
        name: String,
    },
    /// Remove a context; the identity's directory stays
    #[command(after_help = "Example:\n  flotilla context remove prod")]
    Remove {
        /// Its name
        name: String,
    },
}

impl ContextCommand {
    /// Does it, and returns what to print.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written, or knows no such context.
    pub fn execute(self, args: &ManagerArgs) -> Result<String, CliError> {
        let file = Contexts::file().ok_or(ContextError::NoHome)?;
        let mut contexts = Contexts::read(&file)?;
        match self {
            Self::List => list(args, contexts),
            Self::Use { name } => {
                contexts.context(&name)?;
                contexts.current = Some(name.clone());
                contexts.write(&file)?;
                Ok(args.output.done(format!("context {name} is used from now on"))?)
            }
            Self::Add { name } => {
                if args.manager.is_empty() {
                    return Err(CliError::Usage("--manager says which manager the context names"));
                }
                let identity = args.identity.as_ref().map(std::path::absolute).transpose();
                let identity =
                    identity.map_err(|source| ContextError::Read { file: file.clone(), source })?;
                let context = Context { managers: args.manager.clone(), identity };
                contexts.contexts.insert(name.clone(), context);
                let current = contexts.current.get_or_insert_with(|| name.clone());
                let used = if *current == name { "used" } else { "not used: flotilla context use" };
                let sentence = format!("context {name} set ({used})");
                contexts.write(&file)?;
                Ok(args.output.done(sentence)?)
            }
            Self::Remove { name } => {
                contexts.context(&name)?;
                contexts.contexts.remove(&name);
                contexts.current.take_if(|current| *current == name);
                contexts.write(&file)?;
                Ok(args.output.done(format!("context {name} removed"))?)
            }
        }
    }
}

fn list(args: &ManagerArgs, contexts: Contexts) -> Result<String, CliError> {
    let current = contexts.current;
    let views: Vec<_> = contexts
        .contexts
        .into_iter()
        .map(|(name, context)| ContextView { used: Some(&name) == current.as_ref(), name, context })
        .collect();
    Ok(args.output.render(&views, |views| {
        table(["", "name", "managers", "identity"], views.iter().map(ContextView::row))
    })?)
}

#[derive(Serialize)]
struct ContextView {
    name: String,
    used: bool,
    #[serde(flatten)]
    context: Context,
}

impl ContextView {
    fn row(&self) -> [String; 4] {
        let managers: Vec<_> = self.context.managers.iter().map(ManagerUrl::to_string).collect();
        let identity = self.context.identity.as_ref().map(|dir| dir.display().to_string());
        [
            if self.used { "*" } else { "" }.to_owned(),
            self.name.clone(),
            managers.join(","),
            identity.unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Contexts {
    /// The one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    contexts: BTreeMap<String, Context>,
}

/// A manager, and who asks it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// Tried in turn.
    pub(super) managers: Vec<ManagerUrl>,
    /// The directory of the administrator's identity; the default's where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<PathBuf>,
}

impl Contexts {
    /// Where it is kept; `None` for a user without a home.
    pub(super) fn file() -> Option<PathBuf> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG base directory specification has relative paths ignored.
        let config = variable("XDG_CONFIG_HOME").filter(|dir| dir.is_absolute());
        let config = config.or_else(|| Some(variable("HOME")?.join(".config")))?;
        Some(config.join("flotilla").join("contexts.toml"))
    }

    /// None where there is no file.
    pub(super) fn read(file: &Path) -> Result<Self, ContextError> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ContextError::Read { file: file.to_owned(), source }),
        };
        toml::from_str(&text).map_err(|error| ContextError::Parse {
            file: file.to_owned(),
            message: error.message().to_owned(),
        })
    }

    fn write(&self, file: &Path) -> Result<(), ContextError> {
        let failed = |source| ContextError::Write { file: file.to_owned(), source };
        let text = toml::to_string_pretty(self).map_err(|error| failed(io::Error::other(error)))?;
        if let Some(dir) = file.parent() {
            create_private_dir(dir).map_err(failed)?;
        }
        write_atomic(file, text.as_bytes(), Access::Private).map_err(failed)
    }

    pub(super) fn context(&self, name: &str) -> Result<&Context, ContextError> {
        self.contexts.get(name).ok_or_else(|| ContextError::Unknown {
            name: name.to_owned(),
            known: match self.contexts.keys().map(String::as_str).collect::<Vec<_>>() {
                none if none.is_empty() => "there is none yet (`flotilla context add`)".to_owned(),
                known => format!("there are {}", known.join(", ")),
            },
        })
    }
}

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Nowhere to keep it.
    #[error("no place for contexts: neither XDG_CONFIG_HOME nor HOME is set")]
    NoHome,
    /// The file is another user's, or no file.
    #[error("read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No room, or not allowed.
    #[error("write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody edited it.
    #[error("{}: {message}", file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Not in the file.
    #[error("there is no context `{name}`; {known}")]
    Unknown {
        /// Asked for.
        name: String,
        /// What there is.
        known: String,
    },
}
