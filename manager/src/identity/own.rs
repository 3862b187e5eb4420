//! The manager's own identity and the administrator's: issued here, renewed here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flotilla_daemon::identity::{IdentityBundle, ManagerUrl, NodeIdentity, OpenIdentityError};
use flotilla_proto::Identity;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::ca::{Ca, IssueError};

/// The two identities that need no join token.
#[derive(Debug, Clone)]
pub(crate) struct OwnIdentities {
    /// What the manager serves with.
    pub(crate) manager: NodeIdentity,
    /// What the command line on this machine opens.
    pub(crate) admin: NodeIdentity,
}

/// What an own identity is made with.
pub(crate) struct Issuing<'a> {
    pub(crate) ca: &'a Ca,
    pub(crate) url: &'a ManagerUrl,
    pub(crate) lifetime: Duration,
}

impl OwnIdentities {
    /// Those kept in `data_dir`, made anew where missing, expired or of another kind.
    pub(crate) fn open(
        data_dir: &Path,
        issuing: &Issuing<'_>,
        manager: &Identity,
        admin: &Identity,
    ) -> Result<Self, OwnIdentityError> {
        Ok(Self {
            manager: open_or_make(&data_dir.join("identity"), issuing, manager)?,
            admin: open_or_make(&data_dir.join("admin"), issuing, admin)?,
        })
    }

    /// Renews both for as long as the manager lives. The admin's files are read by
    /// another process, the command line, at each of its starts.
    pub(crate) async fn renew_loop(self, ca: Arc<Ca>, lifetime: Duration) {
        tokio::join!(
            renew_each_time(&self.manager, &ca, lifetime),
            renew_each_time(&self.admin, &ca, lifetime)
        );
    }
}

async fn renew_each_time(own: &NodeIdentity, ca: &Ca, lifetime: Duration) {
    loop {
        own.renewal_due().await;
        let issued = ca.issue(own.identity(), own.public_key(), SystemTime::now(), lifetime);
        let renewed = issued
            .map_err(anyhow::Error::from)
            .and_then(|certificate| Ok(own.replace_certificate(&[certificate])?));
        let pause = match renewed {
            Ok(()) => PAUSE,
            Err(error) => {
                tracing::warn!(identity = %own.identity(), %error, "own certificate not renewed");
                RETRY_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn open_or_make(
    dir: &Path,
    issuing: &Issuing<'_>,
    identity: &Identity,
) -> Result<NodeIdentity, OwnIdentityError> {
    match NodeIdentity::load(dir) {
        Ok(kept)
            if kept.identity() == identity
                && kept.ca() == issuing.ca.certificate()
                && kept.manager_url() == issuing.url =>
        {
            return Ok(kept);
        }
        Ok(_) | Err(OpenIdentityError::Absent { .. } | OpenIdentityError::Expired { .. }) => {}
        // The CA is here: making it anew costs nothing.
        Err(error) => tracing::warn!(%error, "own identity made anew"),
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = issuing.ca.issue(identity, &key, SystemTime::now(), issuing.lifetime)?;
    let bundle = IdentityBundle {
        key_pem: key.serialize_pem(),
        chain: vec![certificate],
        ca: issuing.ca.certificate().clone(),
        manager: issuing.url.clone(),
    };
    Ok(NodeIdentity::create(dir, &bundle)?)
}

/// A clock that is set back and forth must not make this loop spin.
const PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Why the manager has no identity of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnIdentityError {
    #[error("make a key: {0}")]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Keep(#[from] OpenIdentityError),
}
