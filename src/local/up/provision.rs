//! What the manager must know before anyone can join: the region, its registries, and a join
//! token for each role. Run again over the same state it changes nothing but the tokens.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::rpc::{TopologyClient, manager_channel, reason};
use flotilla_proto::Role;
use flotilla_proto::wire::manager::{CreateTokenRequest, Region};
use tonic::{Code, Status};

use super::daemon::Daemon;
use crate::local::registry::Upstream;

/// What to tell the manager.
pub(crate) struct Provision<'a> {
    /// The directory of an identity that may change the topology; it names the manager.
    pub(crate) admin_identity: &'a Path,
    /// The region's name.
    pub(crate) region: &'a str,
    /// All registries of the region.
    pub(crate) upstreams: &'a [Upstream],
    /// Who will join; each finds its token in its join token file.
    pub(crate) daemons: &'a [Daemon],
}

/// Tells it.
pub(crate) async fn provision(provision: &Provision<'_>) -> anyhow::Result<()> {
    let admin = NodeIdentity::load(provision.admin_identity).context("load the admin's identity")?;
    let mut topology = TopologyClient::new(manager_channel(&admin));
    match topology.add_region(region(provision.region)).await {
        Err(status) if status.code() != Code::AlreadyExists => {
            return Err(refusal("add the region", &status));
        }
        _ => {}
    }
    for upstream in provision.upstreams {
        let Upstream { settings, .. } = upstream;
        let set = topology.set_registry(settings.to_wire()).await;
        set.map_err(|status| refusal(&format!("set registry {}", settings.host), &status))?;
    }
    for daemon in provision.daemons {
        let reply = topology.create_token(token_request(provision.region, daemon.role)).await;
        let reply = reply.map_err(|status| refusal("create a join token", &status))?;
        write_secret(&daemon.join_token_file(), &reply.into_inner().token)
            .with_context(|| format!("write the join token of {}", daemon.name))?;
    }
    Ok(())
}

fn refusal(what: &str, status: &Status) -> anyhow::Error {
    anyhow!("{what}: {}", reason(status))
}

fn region(name: &str) -> Region {
    Region { name: name.to_owned(), description: "all on one machine".to_owned() }
}

fn token_request(region: &str, role: Role) -> CreateTokenRequest {
    CreateTokenRequest {
        region: region.to_owned(),
        role: role.to_string(),
        lifetime_seconds: TOKEN_LIFETIME.as_secs(),
        // A daemon that dies while it joins comes again with the same token and key.
        uses: 1,
        unlimited: false,
    }
}

fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())
}

/// Joining takes seconds; a daemon that keeps dying while it does gets this long.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_its_owner_reads_a_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("join-token");
        write_secret(&path, "a longer secret").unwrap();
        write_secret(&path, "secret").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
