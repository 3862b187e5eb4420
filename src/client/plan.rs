//! What a setup comes to: files as they are and as they shall be, and what to do then.
//!
//! A plan only looks. Whoever applies it writes.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::edit::EditError;
use super::request::{Client, DoorName, Request};
use super::tree::{Tree, TreeError};

/// All of a setup.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    /// What a person should know, each in a sentence or two.
    pub(super) notes: Vec<String>,
    /// How to pull then.
    pub(super) pull: String,
}

/// One file.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) path: PathBuf,
    /// `None`: there is none.
    pub(super) before: Option<String>,
    pub(super) after: String,
    /// It holds credentials.
    pub(super) secret: bool,
    /// What makes the client read it; `None`: the client looks at each pull.
    pub(super) reload: Option<&'static str>,
    /// What makes the client read it once it is as before.
    pub(super) unload: Option<&'static str>,
}

/// A door that a client can use, and in which words.
pub(super) type Works = (DoorName, &'static str);

impl Plan {
    /// One that ends with this command.
    pub(super) fn pulling(pull: String) -> Self {
        Self { pull, ..Self::default() }
    }

    /// Adds what `change` makes of the file's text; a file that is not there has none.
    pub(super) fn edit(
        &mut self,
        tree: &Tree,
        path: impl Into<PathBuf>,
        change: impl FnOnce(&str) -> Result<String, EditError>,
    ) -> Result<&mut Edit, PlanError> {
        let path = path.into();
        let before = tree.text(&path)?;
        let after = change(before.as_deref().unwrap_or_default());
        let after = after.map_err(|error| PlanError::Edit { file: path.clone(), error })?;
        self.edits.push(Edit { path, before, after, secret: false, reload: None, unload: None });
        Ok(self.edits.last_mut().expect("one was pushed"))
    }

    /// Adds the peer's CA for the registry, as the text of `path`.
    pub(super) fn ca(
        &mut self,
        tree: &Tree,
        path: PathBuf,
        request: &Request,
    ) -> Result<&mut Edit, PlanError> {
        let pem = read_ca(request)?;
        self.edit(tree, path, |_| Ok(pem))
    }

    /// Adds a sentence.
    pub(super) fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }
}

impl Edit {
    /// Whether there is anything to write.
    pub(super) fn changes(&self) -> bool {
        self.before.as_deref().unwrap_or_default() != self.after
    }

    /// The client reads it when this is run.
    pub(super) fn read_after(&mut self, command: &'static str) -> &mut Self {
        (self.reload, self.unload) = (Some(command), Some(command));
        self
    }

    /// The client forgets it only when this is run.
    pub(super) fn forgotten_after(&mut self, command: &'static str) {
        self.unload = Some(command);
    }
}

/// The peer runs as another user: what lies at the CA's place is copied only if it is a certificate.
fn read_ca(request: &Request) -> Result<String, PlanError> {
    let file = request.ca_file();
    let pem = match std::fs::read_to_string(&file) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PlanError::NoCa { file, registry: request.registry.to_string() });
        }
        Err(error) => return Err(TreeError::Read { file, error }.into()),
    };
    let is_one = CertificateDer::from_pem_slice(pem.as_bytes()).is_ok();
    let only =
        pem.trim_start().starts_with("-----BEGIN CERTIFICATE-----") && pem.matches("BEGIN").count() == 1;
    if is_one && only { Ok(pem) } else { Err(PlanError::NoCertificate { file }) }
}

/// Why a client cannot be set up so.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    /// The client has no such door.
    #[error("{client} cannot use the {door} door: {why}. These work:{}", list(works))]
    Door {
        /// Who.
        client: Client,
        /// Which.
        door: DoorName,
        /// Why not.
        why: &'static str,
        /// What to use.
        works: &'static [Works],
    },
    /// dockerd's mirrors are the hub's.
    #[error(
        "docker cannot use the mirror door for {registry}: `registry-mirrors` is for docker.io alone, in \
         every version. These work:{}",
        list(works)
    )]
    HubOnly {
        /// The registry.
        registry: String,
        /// What to use.
        works: &'static [Works],
    },
    /// A registry's port cannot be written there.
    #[error("{registry} has a port, and an image's name cannot hold a second one: use another door")]
    Port {
        /// The registry.
        registry: String,
    },
    /// TLS names no other port.
    #[error("the sni door stands in for port 443 of a name; {registry} is none: use another door")]
    NoName {
        /// The registry.
        registry: String,
    },
    /// A registry on this machine.
    #[error("{registry} is this machine: Go's HTTP clients use no proxy for it. Name it by another address")]
    Loopback {
        /// The registry.
        registry: String,
    },
    /// The peer did not make one.
    #[error(
        "there is no CA for {registry}: {} is not there. The peer makes it once it runs and knows the \
         registry: see `flotilla peer status`, and `flotilla registry list` at the manager. Is the peer's \
         data elsewhere, name it with --data-dir", file.display()
    )]
    NoCa {
        /// Where it would lie.
        file: PathBuf,
        /// The registry.
        registry: String,
    },
    /// What lies there is something else.
    #[error("{} holds something else than one certificate", file.display())]
    NoCertificate {
        /// Which.
        file: PathBuf,
    },
    /// Two proxies cannot be had.
    #[error(
        "{} sends HTTPS through {proxy} already, and a client has one proxy: remove that one first, or use \
         another door", file.display()
    )]
    ProxyTaken {
        /// Where that stands.
        file: PathBuf,
        /// Its URL.
        proxy: String,
    },
    /// The credentials were named, and are not there.
    #[error("there is no {}", file.display())]
    NoAuthfile {
        /// Which.
        file: PathBuf,
    },
    /// A file that cannot be edited.
    #[error("edit {}: {error}", file.display())]
    Edit {
        /// Which.
        file: PathBuf,
        /// Why.
        error: EditError,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

fn list(works: &[Works]) -> String {
    works.iter().map(|(door, what)| format!("\n  --door {door}: {what}")).collect()
}

/// Of a directory of snippets, the file that is ours.
pub(super) fn own_file(dir: impl AsRef<Path>) -> PathBuf {
    dir.as_ref().join("flotilla.conf")
}
