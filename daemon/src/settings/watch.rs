//! Following the settings: from disk at once, from the manager as they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::wire::manager as wire;
use prost::Message as _;
use tokio::sync::watch::Sender;

use super::{Receiver, RegionSettings};
use crate::files::{Access, write_atomic};
use crate::identity::NodeIdentity;
use crate::rpc;

/// Follows the settings of `identity`'s region. The receiver starts with those kept in
/// `data_dir` (or [`RegionSettings::none_yet`]), so a daemon starts without the manager;
/// the future keeps them up to date and tells the manager that this daemon is reached at
/// `advertise` (`ip:port`). The revoked keys in them are refused by all that `identity` connects
/// or serves. It ends only when the manager says that the daemon was removed.
///
/// # Errors
///
/// If the identity belongs to no region: managers and admins have no settings.
pub fn watch(
    identity: NodeIdentity,
    data_dir: &Path,
    advertise: String,
) -> Result<(Receiver, impl Future<Output = Removed> + Send + 'static), NoRegionError> {
    let file = data_dir.join(FILE);
    let kept = read_kept(&file).filter(|kept| Some(&kept.region) == identity.identity().region.as_ref());
    let Some(settings) = kept.or_else(|| RegionSettings::none_yet(identity.identity())) else {
        return Err(NoRegionError);
    };
    identity.revoked_keys().replace(settings.revoked_keys.iter().copied());
    let (sender, receiver) = tokio::sync::watch::channel(Arc::new(settings));
    let watcher = Watcher { identity, file, advertise, sender };
    Ok((receiver, watcher.run()))
}

struct Watcher {
    identity: NodeIdentity,
    file: PathBuf,
    advertise: String,
    sender: Sender<Arc<RegionSettings>>,
}

impl Watcher {
    async fn run(self) -> Removed {
        let channel = rpc::manager_channel(&self.identity);
        let mut manager = rpc::SettingsClient::new(channel);
        let mut pause = MIN_PAUSE;
        let mut lost = false;
        loop {
            let request = self.request();
            let ended = match manager.watch(request).await {
                Ok(stream) => {
                    if lost {
                        tracing::info!(manager = %self.identity.manager_url(), "the manager gives settings again");
                    }
                    (pause, lost) = (MIN_PAUSE, false);
                    self.follow(stream.into_inner()).await
                }
                Err(status) => Ended::from(&status),
            };
            let ended = match ended {
                Ended::Lost(reason) => reason,
                Ended::Removed(removed) => return removed,
            };
            if lost {
                tracing::debug!(reason = ended, "still no settings from the manager");
            } else {
                let revision = self.sender.borrow().revision;
                tracing::warn!(
                    reason = ended,
                    revision,
                    "no settings from the manager; they stay as they are"
                );
                lost = true;
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn request(&self) -> wire::WatchRequest {
        let known = self.sender.borrow();
        wire::WatchRequest {
            address: self.advertise.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            known_revision: known.revision,
            known_revoked_keys: u32::try_from(known.revoked_keys.len()).unwrap_or(u32::MAX),
        }
    }

    /// Takes settings from the stream; returns why it ended.
    async fn follow(&self, mut stream: tonic::Streaming<wire::RegionSettings>) -> Ended {
        loop {
            match stream.message().await {
                Ok(Some(message)) => self.take(&message),
                Ok(None) => return Ended::Lost("it ended the stream".to_owned()),
                Err(status) => return Ended::from(&status),
            }
        }
    }

    fn take(&self, message: &wire::RegionSettings) {
        let settings = match RegionSettings::from_wire(message) {
            Ok(settings) => settings,
            Err(error) => return tracing::warn!(%error, "settings without a proper region; ignored"),
        };
        // Before the disk has its time.
        self.identity.revoked_keys().replace(settings.revoked_keys.iter().copied());
        // A small file and a rare one, so that the blocking write is no matter.
        if let Err(error) = write_atomic(&self.file, &message.encode_to_vec(), Access::Private) {
            tracing::warn!(file = %self.file.display(), %error, "settings not kept on disk");
        }
        tracing::info!(
            revision = settings.revision,
            registries = settings.registries.len(),
            revoked_keys = settings.revoked_keys.len(),
            "settings received"
        );
        self.sender.send_replace(Arc::new(settings));
    }
}

/// The manager said that this daemon is not one of the cluster any more, in these words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed(pub String);

/// Why a stream of settings ended.
enum Ended {
    Lost(String),
    Removed(Removed),
}

impl From<&tonic::Status> for Ended {
    /// Only the manager itself, which the cluster's CA vouches for, can deny permission.
    fn from(status: &tonic::Status) -> Self {
        match status.code() {
            tonic::Code::PermissionDenied => Self::Removed(Removed(rpc::reason(status))),
            _ => Self::Lost(rpc::reason(status)),
        }
    }
}

fn read_kept(file: &Path) -> Option<RegionSettings> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "settings on disk cannot be read");
            return None;
        }
    };
    let parsed = wire::RegionSettings::decode(&bytes[..]).ok();
    let parsed = parsed.and_then(|message| RegionSettings::from_wire(&message).ok());
    if parsed.is_none() {
        tracing::warn!(file = %file.display(), "settings on disk are damaged; waiting for the manager");
    }
    parsed
}

const FILE: &str = "settings.bin";
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Settings were asked for by somebody who belongs to no region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only a daemon of a region has settings")]
pub struct NoRegionError;
