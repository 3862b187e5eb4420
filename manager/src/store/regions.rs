//! Regions.

use flotilla_proto::RegionName;
use flotilla_proto::wire::manager as wire;
use sqlx::Row as _;

use super::Store;

impl Store {
    /// All regions by name.
    pub(crate) async fn regions(&self) -> Result<Vec<wire::Region>, sqlx::Error> {
        let rows =
            sqlx::query("SELECT name, description FROM regions ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(wire::Region { name: row.try_get("name")?, description: row.try_get("description")? })
            })
            .collect()
    }

    pub(crate) async fn add_region(
        &self,
        name: &RegionName,
        description: &str,
    ) -> Result<(), RegionChangeError> {
        let added =
            sqlx::query("INSERT INTO regions (name, description) VALUES (?, ?) ON CONFLICT DO NOTHING")
                .bind(name.as_str())
                .bind(description)
                .execute(&self.pool)
                .await?;
        if added.rows_affected() == 0 {
            return Err(RegionChangeError::Exists(name.clone()));
        }
        Ok(())
    }

    /// Removes a region without daemons; its join tokens go with it.
    pub(crate) async fn remove_region(&self, name: &RegionName) -> Result<(), RegionChangeError> {
        let mut transaction = self.begin_write().await?;
        let daemons: i64 = sqlx::query_scalar("SELECT count(*) FROM daemons WHERE region = ?")
            .bind(name.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        if daemons > 0 {
            return Err(RegionChangeError::HasDaemons { region: name.clone(), daemons });
        }
        let removed = sqlx::query("DELETE FROM regions WHERE name = ?")
            .bind(name.as_str())
            .execute(&mut *transaction)
            .await?;
        if removed.rows_affected() == 0 {
            return Err(RegionChangeError::Unknown(name.clone()));
        }
        Ok(transaction.commit().await?)
    }
}

/// Why a region was not added or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegionChangeError {
    #[error("region `{0}` exists already")]
    Exists(RegionName),
    #[error("there is no region `{0}`")]
    Unknown(RegionName),
    #[error("region `{region}` has {daemons} daemons; remove them first (`flotilla peer remove`)")]
    HasDaemons { region: RegionName, daemons: i64 },
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}
