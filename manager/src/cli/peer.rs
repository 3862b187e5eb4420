//! `flotilla peer list` and `remove`: the daemons as the manager knows them.

use flotilla_proto::PeerId;
use flotilla_proto::wire::manager as wire;
use serde::Serialize;

use super::output::{or_dash, table, time};
use super::{CliError, ManagerArgs, request};

/// Peers, seeds and schedulers that have enrolled
#[derive(Debug, Clone, clap::Subcommand)]
pub enum PeerCommand {
    /// List the enrolled daemons
    #[command(after_help = "Example:\n  flotilla peer list --output yaml")]
    List,
    /// Remove a daemon and revoke its key: no daemon speaks with it any more, and its name is free
    #[command(after_help = "Example:\n  flotilla peer remove node-17")]
    Remove {
        /// Its name
        id: PeerId,
    },
}

impl PeerCommand {
    /// Does it, and returns what to print.
    ///
    /// # Errors
    ///
    /// If the manager cannot be reached, or refuses.
    pub async fn execute(self, args: &ManagerArgs) -> Result<String, CliError> {
        let mut manager = args.connect().await?;
        match self {
            Self::List => {
                let reply = manager.list_daemons(request(wire::Empty {})).await;
                let daemons = reply.map_err(|status| args.refused(&status))?.into_inner().daemons;
                let daemons: Vec<_> = daemons.into_iter().map(DaemonView::from).collect();
                let headings = ["id", "region", "role", "address", "version", "connected", "seen"];
                Ok(args
                    .output
                    .render(&daemons, |daemons| table(headings, daemons.iter().map(DaemonView::row)))?)
            }
            Self::Remove { id } => {
                let named = wire::Name { name: id.to_string() };
                let removed = manager.remove_daemon(request(named)).await;
                let removed = removed.map_err(|status| args.refused(&status))?.into_inner();
                Ok(args.output.done(removal(&id, &removed))?)
            }
        }
    }
}

/// What became of the daemon, for people.
fn removal(id: &PeerId, removed: &wire::RemovedDaemon) -> String {
    let key = if removed.revoked {
        "its key is revoked: daemons that reach the manager close their connections with it within 5 s, others once \
         they reach it".to_owned()
    } else {
        "its key is not known, since it was not seen since an older version: others take its certificate until \
         that ends"
            .to_owned()
    };
    format!("daemon {id} removed; {key}. A new join token enrols the name again (`flotilla token create`)")
}

#[derive(Debug, Serialize)]
pub(super) struct DaemonView {
    pub(super) id: String,
    pub(super) region: String,
    pub(super) role: String,
    pub(super) address: Option<String>,
    pub(super) version: Option<String>,
    pub(super) connected: bool,
    pub(super) enrolled_at: Option<String>,
    pub(super) seen_at: Option<String>,
}

impl DaemonView {
    fn row(&self) -> [String; 7] {
        [
            self.id.clone(),
            self.region.clone(),
            self.role.clone(),
            or_dash(self.address.as_deref()),
            or_dash(self.version.as_deref()),
            if self.connected { "yes" } else { "no" }.to_owned(),
            or_dash(self.seen_at.as_deref()),
        ]
    }
}

impl From<wire::Daemon> for DaemonView {
    fn from(daemon: wire::Daemon) -> Self {
        let present = |text: String| (!text.is_empty()).then_some(text);
        Self {
            id: daemon.id,
            region: daemon.region,
            role: daemon.role,
            address: present(daemon.address),
            version: present(daemon.version),
            connected: daemon.connected,
            enrolled_at: time(daemon.enrolled_at),
            seen_at: time(daemon.seen_at),
        }
    }
}
