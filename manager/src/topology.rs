//! The topology and its changes: what is kept, and who hears of it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use flotilla_daemon::settings::Upstream;
use flotilla_proto::wire::manager as wire;
use flotilla_proto::{Identity, PeerId, RegionName, RegistryHost};

use crate::store::{Applicant, Enrolled, EnrolmentRefused, RegistryChangeError, Removal, Store};
use crate::watch::{Watcher, Watchers};

/// Regions, registries and daemons of one cluster; a clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    cluster: RegionName,
    store: Store,
    watchers: Watchers,
}

impl Topology {
    pub(crate) fn new(cluster: RegionName, store: Store, watchers: Watchers) -> Self {
        Self { cluster, store, watchers }
    }

    pub(crate) fn cluster(&self) -> &RegionName {
        &self.cluster
    }

    /// What changes nothing that daemons are told goes to the store directly.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) async fn set_registry(&self, upstream: &Upstream) -> Result<(), RegistryChangeError> {
        self.store.set_registry(upstream).await?;
        self.watchers.announce();
        tracing::info!(registry = %upstream.host, endpoints = upstream.endpoints.len(), "registry set");
        Ok(())
    }

    pub(crate) async fn remove_registry(&self, host: &RegistryHost) -> Result<(), RegistryChangeError> {
        self.store.remove_registry(host).await?;
        self.watchers.announce();
        tracing::info!(registry = %host, "registry removed");
        Ok(())
    }

    /// Whether the daemon watches its settings at this moment.
    pub(crate) fn is_connected(&self, id: &str) -> bool {
        self.watchers.is_connected(id)
    }

    /// All daemons, with whether each is connected.
    pub(crate) async fn daemons(&self) -> Result<Vec<wire::Daemon>, sqlx::Error> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let rows = self.store.daemons().await?;
        let daemons = rows.into_iter().map(|row| {
            let connected = self.watchers.is_connected(&row.id);
            wire::Daemon {
                connected,
                enrolled_at: row.enrolled_at.cast_unsigned(),
                seen_at: if connected { now } else { row.seen_at.cast_unsigned() },
                id: row.id,
                region: row.region,
                role: row.role,
                address: row.address,
                version: row.version,
            }
        });
        Ok(daemons.collect())
    }

    /// Gives a daemon its name and key.
    pub(crate) async fn enrol(&self, applicant: &Applicant<'_>) -> Result<Enrolled, EnrolmentRefused> {
        let enrolled = self.store.enrol(applicant, SystemTime::now()).await?;
        if enrolled.replaced {
            self.watchers.announce();
            tracing::info!(daemon = %applicant.id, "the daemon's former key is revoked, at its word");
        }
        Ok(enrolled)
    }

    /// Removes a daemon: it gets no settings and no renewal any more, and no daemon trusts its key.
    /// `None` if there is none. No certificate is good for longer than `lifetime`.
    pub(crate) async fn remove_daemon(
        &self,
        id: &PeerId,
        lifetime: Duration,
    ) -> Result<Option<Removal>, sqlx::Error> {
        let removed = self.store.remove_daemon(id, SystemTime::now(), lifetime).await?;
        if let Some(removal) = removed {
            self.watchers.announce();
            let is_revoked = matches!(removal, Removal::Revoked(_));
            tracing::info!(daemon = %id, is_revoked, "daemon removed");
        }
        Ok(removed)
    }

    /// Starts to watch for a daemon that says where it is.
    pub(crate) async fn watch(
        &self,
        daemon: &Identity,
        address: SocketAddr,
        version: &str,
    ) -> Result<Watcher, sqlx::Error> {
        let watcher = self.watchers.join(&daemon.id);
        if self.store.locate(daemon, address, version, SystemTime::now()).await? {
            self.watchers.announce();
            tracing::info!(daemon = %daemon.id, role = %daemon.role, %address, "daemon located");
        }
        Ok(watcher)
    }

    pub(crate) async fn settings(&self, region: &RegionName) -> Result<wire::RegionSettings, sqlx::Error> {
        self.store.settings(&self.cluster, region, SystemTime::now()).await
    }
}
