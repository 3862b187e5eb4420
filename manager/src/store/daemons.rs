//! Daemons: who has enrolled, where each is, and what each is told.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_proto::wire::manager as wire;
use flotilla_proto::{Identity, PeerId, RegionName, Role};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _, Sqlite, Transaction};

use super::registries::registries;
use super::tokens::TokenRow;
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
        })
    }
}

impl Store {
    /// All daemons, by region, role and name.
    pub(crate) async fn daemons(&self) -> Result<Vec<DaemonRow>, sqlx::Error> {
        sqlx::query_as("SELECT * FROM daemons ORDER BY region, role, id").fetch_all(&self.pool).await
    }

    /// Spends one use of the token with this hash on the daemon `id`; the token says its
    /// region and role.
    pub(crate) async fn enrol(
        &self,
        id: &PeerId,
        secret_hash: &[u8; 32],
        now: SystemTime,
    ) -> Result<(RegionName, Role), EnrolmentRefused> {
        let mut transaction = self.begin_write().await?;
        let token: Option<TokenRow> = sqlx::query_as("SELECT * FROM tokens WHERE secret_hash = ?")
            .bind(&secret_hash[..])
            .fetch_optional(&mut *transaction)
            .await?;
        let token = token.ok_or(EnrolmentRefused::UnknownToken)?;
        spend(&mut transaction, &token, now).await?;
        refuse_taken(&mut transaction, id, &token).await?;
        sqlx::query(
            "INSERT INTO daemons (id, region, role, address, version, enrolled_at, seen_at) \
             VALUES (?, ?, ?, '', '', ?, 0) \
             ON CONFLICT (id) DO UPDATE SET enrolled_at = excluded.enrolled_at",
        )
        .bind(id.as_str())
        .bind(&token.region)
        .bind(&token.role)
        .bind(unix_seconds(now))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let damaged = || sqlx::Error::Decode("the token's row is damaged".into());
        let region = token.region.parse().map_err(|_| damaged())?;
        let role = token.role.parse().map_err(|_| damaged())?;
        Ok((region, role))
    }

    /// Whether the daemon is still one of the cluster, in the region and role it claims.
    pub(crate) async fn is_enrolled(&self, identity: &Identity) -> Result<bool, sqlx::Error> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM daemons WHERE id = ? AND region = ? AND role = ?")
                .bind(identity.id.as_str())
                .bind(identity.region.as_ref().map(RegionName::as_str))
                .bind(identity.role.as_str())
                .fetch_optional(&self.pool)
                .await?;
        Ok(found.is_some())
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

    /// Removes a daemon; `false` if there is none of that name.
    pub(crate) async fn remove_daemon(&self, id: &PeerId) -> Result<bool, sqlx::Error> {
        let mut transaction = self.begin_write().await?;
        let removed = sqlx::query("DELETE FROM daemons WHERE id = ?")
            .bind(id.as_str())
            .execute(&mut *transaction)
            .await?
            .rows_affected()
            > 0;
        if removed {
            raise_revision(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(removed)
    }

    /// All that the daemons of a region are told, at one moment.
    pub(crate) async fn settings(
        &self,
        cluster: &RegionName,
        region: &RegionName,
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
        })
    }
}

async fn spend(
    transaction: &mut Transaction<'static, Sqlite>,
    token: &TokenRow,
    now: SystemTime,
) -> Result<(), EnrolmentRefused> {
    if token.expires_at <= unix_seconds(now) {
        let since = UNIX_EPOCH + Duration::from_secs(token.expires_at.cast_unsigned());
        return Err(EnrolmentRefused::ExpiredToken {
            id: token.id.clone(),
            since: humantime::format_rfc3339_seconds(since),
        });
    }
    if token.uses_left == Some(0) {
        return Err(EnrolmentRefused::UsedUpToken { id: token.id.clone() });
    }
    sqlx::query("UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ?")
        .bind(&token.id)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// A name keeps its region and role: whoever may enrol peers must not become a scheduler
/// by taking its name.
async fn refuse_taken(
    transaction: &mut Transaction<'static, Sqlite>,
    id: &PeerId,
    token: &TokenRow,
) -> Result<(), EnrolmentRefused> {
    let holder: Option<DaemonRow> = sqlx::query_as("SELECT * FROM daemons WHERE id = ?")
        .bind(id.as_str())
        .fetch_optional(&mut **transaction)
        .await?;
    match holder {
        Some(holder) if (&holder.region, &holder.role) != (&token.region, &token.role) => {
            Err(EnrolmentRefused::Taken { id: id.clone(), role: holder.role, region: holder.region })
        }
        Some(_) | None => Ok(()),
    }
}

/// Why a daemon may not join.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolmentRefused {
    #[error("the join token is unknown: it was revoked, or made by another manager")]
    UnknownToken,
    #[error("the join token {id} expired at {since}")]
    ExpiredToken { id: String, since: humantime::Rfc3339Timestamp },
    #[error("the join token {id} is used up")]
    UsedUpToken { id: String },
    #[error(
        "the name `{id}` is taken by a {role} of region `{region}`; set another `name` in the daemon's \
         configuration, or remove that one first (`flotilla peer remove {id}`)"
    )]
    Taken { id: PeerId, role: String, region: String },
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}
