//! Join tokens, by the hash of their secret.

use std::time::{Duration, SystemTime};

use flotilla_proto::{RegionName, Role};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::{Store, unix_seconds};

/// A join token to be.
pub(crate) struct NewToken {
    pub(crate) id: String,
    pub(crate) secret_hash: [u8; 32],
    pub(crate) region: RegionName,
    pub(crate) role: Role,
    pub(crate) lifetime: Duration,
    /// `None`: any number.
    pub(crate) uses: Option<u32>,
}

/// A join token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) role: String,
    /// Unix seconds.
    pub(crate) created_at: i64,
    /// Unix seconds.
    pub(crate) expires_at: i64,
    /// `None`: any number.
    pub(crate) uses_left: Option<u32>,
    /// The daemon that joined with it last.
    pub(crate) used_by: Option<String>,
}

impl<'r> FromRow<'r, SqliteRow> for TokenRow {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            region: row.try_get("region")?,
            role: row.try_get("role")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            uses_left: row.try_get("uses_left")?,
            used_by: row.try_get("used_by")?,
        })
    }
}

impl Store {
    /// All join tokens, the latest first.
    pub(crate) async fn tokens(&self) -> Result<Vec<TokenRow>, sqlx::Error> {
        sqlx::query_as("SELECT * FROM tokens ORDER BY created_at DESC, id").fetch_all(&self.pool).await
    }

    /// Keeps a join token and returns when it expires, in Unix seconds. Those that
    /// expired long ago are forgotten on the way.
    pub(crate) async fn add_token(&self, token: &NewToken, now: SystemTime) -> Result<i64, TokenChangeError> {
        let mut transaction = self.begin_write().await?;
        let region: Option<i64> = sqlx::query_scalar("SELECT 1 FROM regions WHERE name = ?")
            .bind(token.region.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        if region.is_none() {
            return Err(TokenChangeError::UnknownRegion(token.region.clone()));
        }
        sqlx::query("DELETE FROM tokens WHERE expires_at < ?")
            .bind(unix_seconds(now - FORGET_AFTER))
            .execute(&mut *transaction)
            .await?;
        let expires_at = unix_seconds(now + token.lifetime);
        sqlx::query(
            "INSERT INTO tokens (id, secret_hash, region, role, created_at, expires_at, uses_left) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&token.id)
        .bind(&token.secret_hash[..])
        .bind(token.region.as_str())
        .bind(token.role.as_str())
        .bind(unix_seconds(now))
        .bind(expires_at)
        .bind(token.uses)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(expires_at)
    }

    pub(crate) async fn revoke_token(&self, id: &str) -> Result<(), TokenChangeError> {
        let removed = sqlx::query("DELETE FROM tokens WHERE id = ?").bind(id).execute(&self.pool).await?;
        if removed.rows_affected() == 0 {
            return Err(TokenChangeError::Unknown(id.to_owned()));
        }
        Ok(())
    }
}

/// Until then, whoever shows an expired token is told that it expired.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Why a join token was not made or revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenChangeError {
    #[error("there is no region `{0}`; `flotilla region add` makes one")]
    UnknownRegion(RegionName),
    #[error("there is no join token `{0}`")]
    Unknown(String),
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}
