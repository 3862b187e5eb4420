//! Enrolling: a name, a key and a join token.
//!
//! A name is its key's. Another key gets it if that one agrees, or after the daemon was removed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_proto::{KeyHash, PeerId, RegionName, Role};
use sqlx::{Sqlite, Transaction};

use super::daemons::DaemonRow;
use super::keys::{CertifiedKey, Why, is_revoked, revoke};
use super::tokens::TokenRow;
use super::{Store, raise_revision, unix_seconds};

/// A daemon that wants to join.
pub(crate) struct Applicant<'a> {
    pub(crate) id: &'a PeerId,
    /// Of its join token.
    pub(crate) secret_hash: [u8; 32],
    /// Its key, and until when the certificate for it will be good.
    pub(crate) key: CertifiedKey,
    /// The key that agrees.
    pub(crate) former: Option<KeyHash>,
}

/// What a join token made of a daemon.
#[derive(Debug)]
pub(crate) struct Enrolled {
    pub(crate) region: RegionName,
    pub(crate) role: Role,
    /// The token's id.
    pub(crate) token: String,
    /// The name had another key, which is revoked: daemons must be told.
    pub(crate) replaced: bool,
}

impl Store {
    /// Gives a daemon its name and spends one use of its token, which says its region and role. The same
    /// token with the same key spends nothing again: an answer may be lost.
    pub(crate) async fn enrol(
        &self,
        applicant: &Applicant<'_>,
        now: SystemTime,
    ) -> Result<Enrolled, EnrolmentRefused> {
        let Applicant { id, secret_hash, key, former } = applicant;
        let mut transaction = self.begin_write().await?;
        let token: Option<TokenRow> = sqlx::query_as("SELECT * FROM tokens WHERE secret_hash = ?")
            .bind(&secret_hash[..])
            .fetch_optional(&mut *transaction)
            .await?;
        let token = token.ok_or(EnrolmentRefused::UnknownToken)?;
        refuse_expired(&token, now)?;
        let holder: Option<DaemonRow> = sqlx::query_as("SELECT * FROM daemons WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        let joined_so =
            |holder: &DaemonRow| holder.has(&key.hash) && holder.token.as_ref() == Some(&token.id);
        if !holder.as_ref().is_some_and(joined_so) {
            spend(&mut transaction, &token, id).await?;
        }
        if is_revoked(&mut transaction, &key.hash, now).await? {
            return Err(EnrolmentRefused::RevokedKey);
        }
        let other: Option<String> =
            sqlx::query_scalar("SELECT id FROM daemons WHERE key_hash = ? AND id <> ?")
                .bind(&key.hash.as_bytes()[..])
                .bind(id.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        if let Some(other) = other {
            return Err(EnrolmentRefused::KeyTaken { other });
        }
        let replaced = match &holder {
            Some(holder) => refuse_taken(holder, &token, &key.hash, former.as_ref())?,
            None => None,
        };
        if let Some((holder, key)) = replaced {
            let ends = holder.certificate_ends.max(unix_seconds(applicant.key.ends));
            revoke(&mut transaction, (key, Why::Replaced), &holder.id, ends, now).await?;
            raise_revision(&mut transaction).await?;
        }
        keep(&mut transaction, applicant, &token, now).await?;
        transaction.commit().await?;
        let damaged = || sqlx::Error::Decode("the token's row is damaged".into());
        Ok(Enrolled {
            region: token.region.parse().map_err(|_| damaged())?,
            role: token.role.parse().map_err(|_| damaged())?,
            token: token.id,
            replaced: replaced.is_some(),
        })
    }
}

fn refuse_expired(token: &TokenRow, now: SystemTime) -> Result<(), EnrolmentRefused> {
    if token.expires_at > unix_seconds(now) {
        return Ok(());
    }
    let since = UNIX_EPOCH + Duration::from_secs(token.expires_at.cast_unsigned());
    Err(EnrolmentRefused::ExpiredToken {
        id: token.id.clone(),
        since: humantime::format_rfc3339_seconds(since),
    })
}

async fn spend(
    transaction: &mut Transaction<'static, Sqlite>,
    token: &TokenRow,
    id: &PeerId,
) -> Result<(), EnrolmentRefused> {
    if token.uses_left == Some(0) {
        return Err(EnrolmentRefused::UsedToken(Box::new(UsedToken {
            id: token.id.clone(),
            used_by: token.used_by.clone().unwrap_or_else(|| "another daemon".to_owned()),
            region: token.region.clone(),
            role: token.role.clone(),
        })));
    }
    sqlx::query("UPDATE tokens SET uses_left = uses_left - 1, used_by = ? WHERE id = ?")
        .bind(id.as_str())
        .bind(&token.id)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// A name keeps its region and role: a token that enrols peers must not make a scheduler
/// by taking its name. Nor does another peer take it. Returns the key that gives way, with its daemon.
fn refuse_taken<'a>(
    holder: &'a DaemonRow,
    token: &TokenRow,
    key: &KeyHash,
    former: Option<&KeyHash>,
) -> Result<Option<(&'a DaemonRow, &'a [u8])>, EnrolmentRefused> {
    let DaemonRow { id, region, role, key_hash, .. } = holder;
    if (region, role) != (&token.region, &token.role) {
        return Err(EnrolmentRefused::Taken { id: id.clone(), role: role.clone(), region: region.clone() });
    }
    if holder.has(key) {
        return Ok(None);
    }
    match key_hash {
        Some(held) if former.is_some_and(|former| holder.has(former)) => Ok(Some((holder, held))),
        _ => Err(EnrolmentRefused::OtherKey { id: id.clone() }),
    }
}

async fn keep(
    transaction: &mut Transaction<'static, Sqlite>,
    applicant: &Applicant<'_>,
    token: &TokenRow,
    now: SystemTime,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO daemons \
         (id, region, role, address, version, enrolled_at, seen_at, key_hash, certificate_ends, token) \
         VALUES (?, ?, ?, '', '', ?, 0, ?, ?, ?) \
         ON CONFLICT (id) DO UPDATE SET enrolled_at = excluded.enrolled_at, token = excluded.token, \
         certificate_ends = iif(key_hash = excluded.key_hash, \
         max(certificate_ends, excluded.certificate_ends), excluded.certificate_ends), \
         key_hash = excluded.key_hash",
    )
    .bind(applicant.id.as_str())
    .bind(&token.region)
    .bind(&token.role)
    .bind(unix_seconds(now))
    .bind(&applicant.key.hash.as_bytes()[..])
    .bind(unix_seconds(applicant.key.ends))
    .bind(&token.id)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// A join token that has no uses left.
#[derive(Debug)]
pub(crate) struct UsedToken {
    id: String,
    used_by: String,
    region: String,
    role: String,
}

/// Why a daemon may not join.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolmentRefused {
    #[error("the join token is unknown: it was revoked, or made by another manager")]
    UnknownToken,
    #[error("the join token {id} expired at {since}")]
    ExpiredToken { id: String, since: humantime::Rfc3339Timestamp },
    #[error(
        "the join token {} is used up, last by `{}`; make another with `flotilla token create --region {} \
         --role {}`", .0.id, .0.used_by, .0.region, .0.role
    )]
    UsedToken(Box<UsedToken>),
    #[error("the key was revoked when its daemon was removed")]
    RevokedKey,
    #[error("the key belongs to `{other}` already, as when a disk was copied")]
    KeyTaken { other: String },
    #[error(
        "the name `{id}` is taken by a {role} of region `{region}`; set another `name` in the daemon's \
         configuration, or remove that one first (`flotilla peer remove {id}`)"
    )]
    Taken { id: String, role: String, region: String },
    #[error(
        "the name `{id}` belongs to a daemon with another key; set another `name` in this daemon's \
         configuration or, if that one is gone or this is the same machine without its former disk, remove it \
         first (`flotilla peer remove {id}`)"
    )]
    OtherKey { id: String },
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}
