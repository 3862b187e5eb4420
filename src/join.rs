//! `flotilla peer join` and `flotilla scheduler join`: a join token put where the daemon's
//! configuration looks for it, and the manager's addresses into the configuration.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use flotilla_daemon::files::{Access, create_private_dir, write_atomic};
use flotilla_daemon::identity::ManagerUrl;
use flotilla_proto::JoinTokenText;
use toml_edit::{Array, DocumentMut, Item, Table, value};

use crate::output;

/// What `flotilla peer join` and `flotilla scheduler join` take.
#[derive(Debug, clap::Args)]
pub(crate) struct JoinArgs {
    /// A file that holds the join token; - reads it from the standard input
    #[arg(value_name = "TOKEN_FILE")]
    token_file: PathBuf,

    /// Where the manager is, tried in turn; without one, where the token says
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    manager: Vec<String>,

    /// The daemon's configuration, made where there is none
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Who joins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Joining {
    Peer,
    Scheduler,
}

impl Joining {
    fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Scheduler => "scheduler",
        }
    }

    fn takes(self, role: &str) -> bool {
        match self {
            Self::Peer => role == "peer" || role == "seed",
            Self::Scheduler => role == "scheduler",
        }
    }
}

/// Writes both, and says what comes next.
pub(crate) fn join(joining: Joining, args: JoinArgs) -> anyhow::Result<()> {
    let daemon = joining.name();
    let token = read_token(&args.token_file)?;
    let (role, region) = (&token.token().role, &token.token().region);
    ensure!(joining.takes(role), "this token is for a {role}: flotilla {role} join, or another token");
    let managers = if args.manager.is_empty() { vec![token.token().manager.clone()] } else { args.manager };
    let managers = managers.into_iter().map(ManagerUrl::try_from).collect::<Result<Vec<_>, _>>()?;

    let config = args.config.unwrap_or_else(|| format!("/etc/flotilla/{daemon}.toml").into());
    let mut document = read_document(&config)?;
    let token_file = write_manager(&mut document, &managers, &config, daemon)?;
    keep(&token_file, &token)?;
    write_config(&config, &document)?;
    output::print(&format!(
        "the {role} of region {region} joins with the token in {}, and looks for the manager at {} ({}).\n\
         Next: systemctl enable --now flotilla-{daemon}. One that was removed and still runs takes the token by \
         itself; one whose manager moved: systemctl restart flotilla-{daemon}",
        token_file.display(),
        managers.iter().map(ManagerUrl::address).collect::<Vec<_>>().join(", "),
        config.display()
    ))
}

fn read_token(file: &Path) -> anyhow::Result<JoinTokenText> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().take(MAX_TOKEN_LEN).read_to_string(&mut text).context("read the join token")?;
        text
    } else {
        fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
    };
    // As `flotilla token create` prints it: a sentence, and the token in the last line.
    let token = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    token.parse().with_context(|| format!("the join token in {}", file.display()))
}

fn read_document(config: &Path) -> anyhow::Result<DocumentMut> {
    let text = match fs::read_to_string(config) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", config.display())),
    };
    text.parse().with_context(|| format!("read {}", config.display()))
}

/// The manager's addresses, and where the token goes: where the configuration has it already.
fn write_manager(
    document: &mut DocumentMut,
    managers: &[ManagerUrl],
    config: &Path,
    daemon: &str,
) -> anyhow::Result<PathBuf> {
    let section = document.entry("manager").or_insert_with(|| Item::Table(Table::new()));
    let Some(section) = section.as_table_like_mut() else {
        bail!("{}: manager is no section", config.display())
    };
    section.remove("address");
    section.remove("join_token");
    section.insert("addresses", value(managers.iter().map(ManagerUrl::address).collect::<Array>()));
    if let Some(file) = section.get("join_token_file").and_then(Item::as_str) {
        return Ok(file.into());
    }
    let file = config.parent().unwrap_or_else(|| Path::new("")).join("tokens").join(daemon);
    let file = std::path::absolute(&file).context("find the directory of the token")?;
    section.insert("join_token_file", value(file.display().to_string()));
    Ok(file)
}

/// The daemon must read it, and nobody else.
fn keep(file: &Path, token: &JoinTokenText) -> anyhow::Result<()> {
    let former = fs::metadata(file).ok().map(|former| (former.uid(), former.gid()));
    let dir = file.parent().context("a token file is in a directory")?;
    let is_new_dir = !dir.exists();
    create_private_dir(dir).with_context(|| format!("create {}", dir.display()))?;
    write_atomic(file, format!("{token}\n").as_bytes(), Access::Private)
        .with_context(|| format!("write {}", file.display()))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some((uid, gid)) = daemon_user().or(former) else { return Ok(()) };
    let given = chown(file, Some(uid), Some(gid));
    given.with_context(|| format!("give {} to the user {DAEMON_USER}", file.display()))?;
    if is_new_dir {
        chown(dir, Some(uid), Some(gid)).with_context(|| format!("give {} away", dir.display()))?;
    }
    Ok(())
}

fn write_config(config: &Path, document: &DocumentMut) -> anyhow::Result<()> {
    if let Some(dir) = config.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let config = std::path::absolute(config).context("find the configuration")?;
    write_atomic(&config, document.to_string().as_bytes(), Access::Public)
        .with_context(|| format!("write {}", config.display()))
}

/// The user of the units, as sysusers.d made it.
fn daemon_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let user = users.lines().find_map(|line| line.strip_prefix(DAEMON_USER)?.strip_prefix(':'))?;
    let mut fields = user.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

const DAEMON_USER: &str = "flotilla";

/// A token is some 700 bytes.
const MAX_TOKEN_LEN: u64 = 64 * 1024;
