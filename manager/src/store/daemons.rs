//! Daemons: where each is, what each is told, and its end.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use flotilla_proto::wire::manager as wire;
use flotilla_proto::{Identity, KeyHash, PeerId, RegionName, Role};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::keys::{Why, revoke, revoked_keys};
use super::registries::registries;
use super::{Store, raise_revision, unix_seconds};

/// A daemon as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DaemonRow {
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) role: String,
    /// Empty until it has said where it is.
    pub(crate) address: String,
    pub(crate) version: String,
    /// Unix seconds.
    pub(crate) enrolled_at: i64,
    /// Unix seconds.
    pub(crate) seen_at: i64,
    /// `None` until it was seen, if it enrolled before keys were kept.
    pub(crate) key_hash: Option<Vec<u8>>,
    /// Unix seconds.
    pub(crate) certificate_ends: i64,
    /// The id of the join token that it came with.
    pub(crate) token: Option<String>,
}

impl DaemonRow {
    /// Whether this is its key.
    pub(super) fn has(&self, key: &KeyHash) -> bool {
        self.key_hash.as_deref() == Some(&key.as_bytes()[..])
    }
}

/// What became of the key of a daemon that was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is revoked until then, in Unix seconds.
    Revoked(i64),
    /// It enrolled before keys were kept and was not seen since.
    KeyUnknown,
}

impl<'r> FromRow<'r, SqliteRow> for DaemonRow {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            region: row.try_get("region")?,
            role: row.try_get("role")?,
            address: row.try_get("address")?,
            version: row.try_get("version")?,
            enrolled_at: row.try_get("enrolled_at")?,
            seen_at: row.try_get("seen_at")?,
            key_hash: row.try_get("key_hash")?,
            certificate_ends: row.try_get("certificate_ends")?,
            token: row.try_get("token")?,
        })
    }
}

impl Store {
    /// All daemons, by region, role and name.
    pub(crate) async fn daemons(&self) -> Result<Vec<DaemonRow>, sqlx::Error> {
        sqlx::query_as("SELECT * FROM daemons ORDER BY region, role, id").fetch_all(&self.pool).await
    }

    /// Notes where a daemon says it is. Returns whether others must be told.
    pub(crate) async fn locate(
        &self,
        identity: &Identity,
        address: SocketAddr,
        version: &str,
        now: SystemTime,
    ) -> Result<bool, sqlx::Error> {
        let mut transaction = self.begin_write().await?;
        let moved = sqlx::query("UPDATE daemons SET address = ?1 WHERE id = ?2 AND address <> ?1")
            .bind(address.to_string())
            .bind(identity.id.as_str())
            .execute(&mut *transaction)
            .await?
            .rows_affected()
            > 0;
        sqlx::query("UPDATE daemons SET version = ?, seen_at = ? WHERE id = ?")
            .bind(version)
            .bind(unix_seconds(now))
            .bind(identity.id.as_str())
            .execute(&mut *transaction)
            .await?;
        let told = moved && matches!(identity.role, Role::Scheduler | Role::Seed);
        if told {
            raise_revision(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(told)
    }

    /// Notes that a daemon was there until now.
    pub(crate) async fn note_seen(&self, id: &PeerId, now: SystemTime) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE daemons SET seen_at = ? WHERE id = ?")
            .bind(unix_seconds(now))
            .bind(id.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Removes a daemon and revokes its key; `None` if there is none of that name. The key counts as certified
    /// for a whole `lifetime` from now on: a store that was restored from a backup misses renewals.
    pub(crate) async fn remove_daemon(
        &self,
        id: &PeerId,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Option<Removal>, sqlx::Error> {
        let mut transaction = self.begin_write().await?;
        let removed: Option<DaemonRow> = sqlx::query_as("DELETE FROM daemons WHERE id = ? RETURNING *")
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(DaemonRow { id, key_hash, certificate_ends, .. }) = removed else { return Ok(None) };
        let removal = match key_hash {
            Some(key) => {
                let ends = certificate_ends.max(unix_seconds(now + lifetime));
                Removal::Revoked(revoke(&mut transaction, (&key, Why::Removed), &id, ends, now).await?)
            }
            None => Removal::KeyUnknown,
        };
        raise_revision(&mut transaction).await?;
        transaction.commit().await?;
        Ok(Some(removal))
    }

    /// All that the daemons of a region are told, at one moment.
    pub(crate) async fn settings(
        &self,
        cluster: &RegionName,
        region: &RegionName,
        now: SystemTime,
    ) -> Result<wire::RegionSettings, sqlx::Error> {
        let mut snapshot = self.pool.begin().await?;
        let revision: i64 =
            sqlx::query_scalar("SELECT revision FROM cluster").fetch_one(&mut *snapshot).await?;
        let daemons: Vec<DaemonRow> = sqlx::query_as(
            "SELECT * FROM daemons WHERE region = ? AND address <> '' AND role IN ('scheduler', 'seed') \
             ORDER BY id",
        )
        .bind(region.as_str())
        .fetch_all(&mut *snapshot)
        .await?;
        let of_role = |role: Role| {
            let daemons = daemons.iter().filter(|daemon| daemon.role == role.as_str());
            daemons
                .map(|daemon| wire::DaemonAddress { id: daemon.id.clone(), address: daemon.address.clone() })
                .collect()
        };
        Ok(wire::RegionSettings {
            revision: revision.cast_unsigned(),
            cluster: cluster.as_str().to_owned(),
            region: region.as_str().to_owned(),
            schedulers: of_role(Role::Scheduler),
            seeds: of_role(Role::Seed),
            registries: registries(&mut snapshot).await?,
            revoked_keys: revoked_keys(&mut snapshot, now).await?.into_iter().map(Into::into).collect(),
        })
    }
}
