//! Keys: which one a name has, and which are revoked.
//!
//! A revoked key stays known for as long as a certificate for it may be good somewhere.

use std::time::SystemTime;

use flotilla_daemon::identity::BACKDATED;
use flotilla_daemon::settings::MAX_REVOKED_KEYS;
use flotilla_proto::{Identity, KeyHash, PeerId, RegionName};
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{Store, unix_seconds};

/// A key, and until when the last certificate for it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CertifiedKey {
    pub(crate) hash: KeyHash,
    pub(crate) ends: SystemTime,
}

impl Store {
    /// Whether the daemon is still one of the cluster, in the region and role it claims, and with
    /// this key. One that enrolled before keys were kept is known by this one from here on.
    pub(crate) async fn is_enrolled(
        &self,
        identity: &Identity,
        key: CertifiedKey,
    ) -> Result<bool, sqlx::Error> {
        let held: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT key_hash FROM daemons WHERE id = ? AND region = ? AND role = ?")
                .bind(identity.id.as_str())
                .bind(identity.region.as_ref().map(RegionName::as_str))
                .bind(identity.role.as_str())
                .fetch_optional(&self.pool)
                .await?;
        match held {
            None => Ok(false),
            Some(Some(held)) => Ok(held == key.hash.as_bytes()),
            Some(None) => self.learn_key(&identity.id, key).await,
        }
    }

    async fn learn_key(&self, id: &PeerId, key: CertifiedKey) -> Result<bool, sqlx::Error> {
        let learned = sqlx::query(
            "UPDATE daemons SET key_hash = ?1, certificate_ends = ?2 \
             WHERE id = ?3 AND (key_hash IS NULL OR key_hash = ?1)",
        )
        .bind(&key.hash.as_bytes()[..])
        .bind(unix_seconds(key.ends))
        .bind(id.as_str())
        .execute(&self.pool)
        .await?;
        Ok(learned.rows_affected() > 0)
    }

    /// Notes that the daemon gets another certificate for its key. `false` if it does not have the
    /// name any more.
    pub(crate) async fn note_certified(&self, id: &PeerId, key: CertifiedKey) -> Result<bool, sqlx::Error> {
        let noted = sqlx::query(
            "UPDATE daemons SET certificate_ends = max(certificate_ends, ?) WHERE id = ? AND key_hash = ?",
        )
        .bind(unix_seconds(key.ends))
        .bind(id.as_str())
        .bind(&key.hash.as_bytes()[..])
        .execute(&self.pool)
        .await?;
        Ok(noted.rows_affected() > 0)
    }
}

/// Why a key is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its daemon was removed.
    Removed,
    /// Its daemon has another one.
    Replaced,
}

/// Revokes a key whose last certificate is good until `certificate_ends`, in Unix seconds; returns until
/// when it stays known. Those of which no certificate is good any more are forgotten on the way, and beyond
/// [`MAX_REVOKED_KEYS`] those that would be next: first those that their own daemons have replaced, so that nobody
/// gets a removed daemon back in by replacing keys.
pub(super) async fn revoke(
    transaction: &mut Transaction<'static, Sqlite>,
    (key, why): (&[u8], Why),
    daemon: &str,
    certificate_ends: i64,
    now: SystemTime,
) -> Result<i64, sqlx::Error> {
    // A daemon whose clock is late takes a certificate for longer.
    let ends_at = certificate_ends.saturating_add(BACKDATED.as_secs().cast_signed());
    sqlx::query(
        "INSERT INTO revoked_keys (key_hash, daemon, ends_at, removed) VALUES (?, ?, ?, ?) \
         ON CONFLICT (key_hash) DO UPDATE SET ends_at = max(ends_at, excluded.ends_at), \
         removed = max(removed, excluded.removed)",
    )
    .bind(key)
    .bind(daemon)
    .bind(ends_at)
    .bind(why == Why::Removed)
    .execute(&mut **transaction)
    .await?;
    sqlx::query("DELETE FROM revoked_keys WHERE ends_at <= ?")
        .bind(unix_seconds(now))
        .execute(&mut **transaction)
        .await?;
    let excess = sqlx::query(
        "DELETE FROM revoked_keys WHERE key_hash IN \
         (SELECT key_hash FROM revoked_keys ORDER BY removed DESC, ends_at DESC LIMIT -1 OFFSET ?)",
    )
    .bind(i64::try_from(MAX_REVOKED_KEYS).unwrap_or(i64::MAX))
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    if excess > 0 {
        tracing::warn!(
            excess,
            limit = MAX_REVOKED_KEYS,
            "too many keys are revoked: so many are accepted again until their certificates end"
        );
    }
    Ok(ends_at)
}

pub(super) async fn is_revoked(
    connection: &mut SqliteConnection,
    key: &KeyHash,
    now: SystemTime,
) -> Result<bool, sqlx::Error> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM revoked_keys WHERE key_hash = ? AND ends_at > ?")
            .bind(&key.as_bytes()[..])
            .bind(unix_seconds(now))
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}

/// All that daemons are told of.
pub(super) async fn revoked_keys(
    connection: &mut SqliteConnection,
    now: SystemTime,
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar("SELECT key_hash FROM revoked_keys WHERE ends_at > ? ORDER BY key_hash")
        .bind(unix_seconds(now))
        .fetch_all(connection)
        .await
}
