//! Registries and their endpoints.

use flotilla_daemon::settings::Upstream;
use flotilla_proto::RegistryHost;
use flotilla_proto::wire::manager as wire;
use prost::Message as _;
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};

use super::{Store, raise_revision};

impl Store {
    /// All registries by host, each with its endpoints in order.
    pub(crate) async fn registries(&self) -> Result<Vec<wire::Registry>, sqlx::Error> {
        registries(&mut *self.pool.acquire().await?).await
    }

    /// Adds a registry, or replaces its endpoints.
    pub(crate) async fn set_registry(&self, upstream: &Upstream) -> Result<(), RegistryChangeError> {
        let mut transaction = self.begin_write().await?;
        let host = upstream.host.as_str();
        sqlx::query("INSERT INTO registries (host) VALUES (?) ON CONFLICT DO NOTHING")
            .bind(host)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM endpoints WHERE host = ?").bind(host).execute(&mut *transaction).await?;
        for (position, endpoint) in (0_i64..).zip(&upstream.endpoints) {
            sqlx::query(
                "INSERT INTO endpoints (host, position, url, ca_pem, address) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(host)
            .bind(position)
            .bind(endpoint.url.to_string())
            .bind(endpoint.ca_pem.as_deref().unwrap_or_default())
            .bind(endpoint.address.map(|address| address.to_string()).unwrap_or_default())
            .execute(&mut *transaction)
            .await?;
        }
        refuse_too_much(&mut transaction).await?;
        raise_revision(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn remove_registry(&self, host: &RegistryHost) -> Result<(), RegistryChangeError> {
        let mut transaction = self.begin_write().await?;
        let removed = sqlx::query("DELETE FROM registries WHERE host = ?")
            .bind(host.as_str())
            .execute(&mut *transaction)
            .await?;
        if removed.rows_affected() == 0 {
            return Err(RegistryChangeError::Unknown(host.clone()));
        }
        raise_revision(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }
}

pub(super) async fn registries(
    connection: &mut SqliteConnection,
) -> Result<Vec<wire::Registry>, sqlx::Error> {
    let rows = sqlx::query("SELECT host, url, ca_pem, address FROM endpoints ORDER BY host, position")
        .fetch_all(connection)
        .await?;
    let mut registries: Vec<wire::Registry> = Vec::new();
    for row in &rows {
        let host: String = row.try_get("host")?;
        let endpoint = wire::Endpoint {
            url: row.try_get("url")?,
            ca_pem: row.try_get("ca_pem")?,
            address: row.try_get("address")?,
            ..Default::default()
        };
        match registries.last_mut() {
            Some(last) if last.host == host => last.endpoints.push(endpoint),
            _ => registries.push(wire::Registry { host, endpoints: vec![endpoint], ..Default::default() }),
        }
    }
    Ok(registries)
}

/// Every daemon gets all registries in one message, which must stay within gRPC's limit.
async fn refuse_too_much(transaction: &mut Transaction<'static, Sqlite>) -> Result<(), RegistryChangeError> {
    let len = wire::Registries { registries: registries(transaction).await? }.encoded_len();
    if len > MAX_REGISTRIES_LEN {
        return Err(RegistryChangeError::TooMuch { len });
    }
    Ok(())
}

/// Half of gRPC's default limit of a message, 4 MiB: the rest is for daemons' addresses.
const MAX_REGISTRIES_LEN: usize = 2 * 1024 * 1024;

/// Why a registry was not set or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryChangeError {
    #[error("there is no registry `{0}`")]
    Unknown(RegistryHost),
    #[error("all registries with their CA files would take {len} bytes; {MAX_REGISTRIES_LEN} are allowed")]
    TooMuch { len: usize },
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}
