//! A daemon's membership in the cluster, from its enrolment to its removal.
//!
//! A daemon that was removed ends all that it does and starts again, where it waits for a
//! new join token; so it holds nothing that its former membership gave it.

use tokio_util::sync::CancellationToken;

use crate::config::ManagerConfig;
use crate::identity::NodeIdentity;
use crate::settings::Removed;
use crate::shutdown::Tasks;

/// How a daemon's life in the cluster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a daemon that was removed starts again"]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// The manager said that it was removed.
    Removed,
}

/// One life of a daemon: ends with the process, or with its removal.
#[derive(Debug)]
pub struct Life {
    process: CancellationToken,
    token: CancellationToken,
}

impl Life {
    /// Begins, as part of a process that ends with `process`.
    pub fn new(process: CancellationToken) -> Self {
        let token = process.child_token();
        Self { process, token }
    }

    /// Cancelled when this life ends.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Follows the settings as a task; that the daemon was removed ends this life.
    pub fn follow(
        &self,
        tasks: &mut Tasks,
        watch: impl Future<Output = Removed> + Send + 'static,
        identity: NodeIdentity,
        manager: ManagerConfig,
    ) {
        let life = self.token.clone();
        tasks.spawn_until_shutdown("settings", async move {
            let Removed(reason) = watch.await;
            tracing::warn!(reason, "this daemon was removed from the topology: it stops serving");
            if let Err(error) = identity.forget(&manager) {
                tracing::error!(%error, "keep on disk that this daemon was removed");
            }
            life.cancel();
        });
    }

    /// How it ended; after [`Self::token`] is cancelled and all tasks have ended in order.
    pub fn ended(&self) -> Ended {
        if self.process.is_cancelled() { Ended::Stopped } else { Ended::Removed }
    }
}
