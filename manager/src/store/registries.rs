//! Registries and their endpoints.

use flotilla_daemon::settings::{GrantLife, Offline, Release, Upstream};
use flotilla_proto::wire::manager as wire;
use flotilla_proto::{RegistryHost, TrustName};
use prost::Message as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};

use super::{Store, raise_revision};

type Write = Transaction<'static, Sqlite>;

impl Store {
    /// All registries by host, each with its endpoints in order.
    pub(crate) async fn registries(&self) -> Result<Vec<wire::Registry>, sqlx::Error> {
        registries(&mut *self.pool.acquire().await?).await
    }

    /// Adds a registry, or replaces all that is said of one.
    pub(crate) async fn set_registry(&self, upstream: &Upstream) -> Result<(), RegistryChangeError> {
        let mut transaction = self.begin_write().await?;
        // Its endpoints and their caps go with it.
        delete(&mut transaction, &upstream.host).await?;
        insert_registry(&mut transaction, upstream).await?;
        for (position, endpoint) in (0_i64..).zip(&upstream.to_wire().endpoints) {
            let place = Place { host: upstream.host.as_str(), position };
            insert_endpoint(&mut transaction, place, endpoint).await?;
        }
        refuse_too_much(&mut transaction).await?;
        raise_revision(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn remove_registry(&self, host: &RegistryHost) -> Result<(), RegistryChangeError> {
        let mut transaction = self.begin_write().await?;
        if !delete(&mut transaction, host).await? {
            return Err(RegistryChangeError::Unknown(host.clone()));
        }
        raise_revision(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }
}

/// Whether it was there.
async fn delete(transaction: &mut Write, host: &RegistryHost) -> Result<bool, sqlx::Error> {
    let deleted = sqlx::query("DELETE FROM registries WHERE host = ?")
        .bind(host.as_str())
        .execute(&mut **transaction)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

async fn insert_registry(transaction: &mut Write, upstream: &Upstream) -> Result<(), sqlx::Error> {
    let offline_granted = match upstream.offline {
        Offline::Refuse => None,
        Offline::Granted { longer } => Some(longer.as_secs().cast_signed()),
    };
    sqlx::query(
        "INSERT INTO registries \
         (host, release, proxy_cache, count_pulls, offline_granted_seconds, strict_grants, trust) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(upstream.host.as_str())
    .bind(upstream.release.to_string())
    .bind(upstream.proxy_cache)
    .bind(upstream.count_pulls)
    .bind(offline_granted)
    .bind(upstream.grants == GrantLife::Strict)
    .bind(upstream.trust.as_ref().map_or("", TrustName::as_str))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// An endpoint's primary key.
#[derive(Clone, Copy)]
struct Place<'a> {
    host: &'a str,
    position: i64,
}

async fn insert_endpoint(
    transaction: &mut Write,
    place: Place<'_>,
    endpoint: &wire::Endpoint,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO endpoints (host, position, url, ca_pem, address, weight, standby, proxy) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(place.host)
    .bind(place.position)
    .bind(&endpoint.url)
    .bind(&endpoint.ca_pem)
    .bind(&endpoint.address)
    .bind(endpoint.weight)
    .bind(endpoint.standby)
    .bind(&endpoint.proxy)
    .execute(&mut **transaction)
    .await?;
    for (ordinal, cap) in (0_i64..).zip(&endpoint.caps) {
        sqlx::query(
            "INSERT INTO caps (host, position, ordinal, bytes_per_s, from_minute, to_minute) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(place.host)
        .bind(place.position)
        .bind(ordinal)
        .bind(cap.bytes_per_s.cast_signed())
        .bind(cap.hours.map(|hours| hours.from_minute))
        .bind(cap.hours.map(|hours| hours.to_minute))
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

pub(super) async fn registries(
    connection: &mut SqliteConnection,
) -> Result<Vec<wire::Registry>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT * FROM registries JOIN endpoints USING (host) LEFT JOIN caps USING (host, position) \
         ORDER BY host, position, ordinal",
    )
    .fetch_all(connection)
    .await?;
    let mut registries: Vec<wire::Registry> = Vec::new();
    let mut last_position = None;
    for row in &rows {
        let host: String = row.try_get("host")?;
        if registries.last().is_none_or(|last| last.host != host) {
            registries.push(registry(row)?);
            last_position = None;
        }
        let registry = registries.last_mut().expect("one was pushed if there was none");
        let position: Option<i64> = Some(row.try_get("position")?);
        if position != last_position {
            registry.endpoints.push(endpoint(row)?);
            last_position = position;
        }
        let endpoint = registry.endpoints.last_mut().expect("one was pushed if there was none");
        endpoint.caps.extend(cap(row)?);
    }
    Ok(registries)
}

fn registry(row: &SqliteRow) -> Result<wire::Registry, sqlx::Error> {
    let release = row.try_get::<&str, _>("release")?.parse::<Release>();
    let release = wire::Release::from(release.map_err(|error| sqlx::Error::Decode(error.into()))?);
    let longer: Option<i64> = row.try_get("offline_granted_seconds")?;
    Ok(wire::Registry {
        host: row.try_get("host")?,
        endpoints: Vec::new(),
        release: release.into(),
        proxy_cache: row.try_get("proxy_cache")?,
        uncounted_pulls: !row.try_get::<bool, _>("count_pulls")?,
        strict_grants: row.try_get("strict_grants")?,
        trust: row.try_get("trust")?,
        offline_granted: longer.map(|s| wire::OfflineGranted { longer_seconds: s.cast_unsigned() }),
    })
}

fn endpoint(row: &SqliteRow) -> Result<wire::Endpoint, sqlx::Error> {
    Ok(wire::Endpoint {
        url: row.try_get("url")?,
        ca_pem: row.try_get("ca_pem")?,
        address: row.try_get("address")?,
        weight: row.try_get("weight")?,
        standby: row.try_get("standby")?,
        proxy: row.try_get("proxy")?,
        caps: Vec::new(),
    })
}

/// The row's cap; an endpoint without caps has one row and no cap in it.
fn cap(row: &SqliteRow) -> Result<Option<wire::Cap>, sqlx::Error> {
    let Some(bytes_per_s) = row.try_get::<Option<i64>, _>("bytes_per_s")? else {
        return Ok(None);
    };
    let bounds = (row.try_get::<Option<u32>, _>("from_minute")?, row.try_get::<Option<u32>, _>("to_minute")?);
    let hours = match bounds {
        (Some(from_minute), Some(to_minute)) => Some(wire::Hours { from_minute, to_minute }),
        _ => None,
    };
    Ok(Some(wire::Cap { bytes_per_s: bytes_per_s.cast_unsigned(), hours }))
}

/// Every daemon gets all registries in one message, which must stay within gRPC's limit.
async fn refuse_too_much(transaction: &mut Write) -> Result<(), RegistryChangeError> {
    let len =
        wire::Registries { registries: registries(transaction).await?, ..Default::default() }.encoded_len();
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use flotilla_daemon::settings::Endpoint;
    use sqlx::migrate::Migrator;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

    use super::*;
    use crate::store::{FILE, migrations};

    #[tokio::test]
    async fn a_registry_comes_out_as_it_went_in_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &"prod".parse().unwrap()).await.unwrap();
        let plain = Upstream::new("reg.test".parse().unwrap(), vec![endpoint("https://c.test")]).unwrap();
        for upstream in [&other(), &all_said(), &plain, &all_said()] {
            store.set_registry(upstream).await.unwrap();
            let kept = store.registries().await.unwrap();
            let kept = kept.iter().find(|registry| registry.host == upstream.host.as_str()).unwrap();
            assert_eq!(Upstream::from_wire(kept).as_ref(), Ok(upstream));
        }
        assert_eq!(store.registries().await.unwrap().len(), 2);
        store.remove_registry(&plain.host).await.unwrap();
        assert_eq!(store.registries().await.unwrap(), [other().to_wire()]);
    }

    #[tokio::test]
    async fn a_registry_of_the_first_migration_reads_as_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        found_with_first_migration(dir.path()).await;
        let store = Store::open(dir.path(), &"prod".parse().unwrap()).await.unwrap();
        let address = Some("10.0.0.9:443".parse().unwrap());
        let endpoint = Endpoint { address, ..endpoint("https://a.test") };
        let expected = Upstream::new("reg.test".parse().unwrap(), vec![endpoint]).unwrap();
        assert_eq!(store.registries().await.unwrap(), [expected.to_wire()]);
    }

    #[tokio::test]
    async fn docker_hub_set_by_several_names_is_one_registry_afterwards() {
        for (names, holds) in [
            (&["docker.io", "registry-1.docker.io", "index.docker.io"][..], "docker.io"),
            (&["registry-1.docker.io", "index.docker.io"], "registry-1.docker.io"),
            (&["index.docker.io"], "index.docker.io"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let options = SqliteConnectOptions::new().filename(dir.path().join(FILE)).create_if_missing(true);
            let pool = SqlitePool::connect_with(options.foreign_keys(true)).await.unwrap();
            let earlier = migrations().into_iter().take(2).collect();
            Migrator::with_migrations(earlier).run(&pool).await.unwrap();
            for name in names {
                for statement in [
                    format!("INSERT INTO registries (host) VALUES ('{name}')"),
                    format!(
                        "INSERT INTO endpoints (host, position, url, ca_pem, address) VALUES ('{name}', 0, 'https://{name}.test', '', '')"
                    ),
                    format!(
                        "INSERT INTO caps (host, position, ordinal, bytes_per_s) VALUES ('{name}', 0, 0, 1000000)"
                    ),
                ] {
                    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
                }
            }
            pool.close().await;
            let store = Store::open(dir.path(), &"prod".parse().unwrap()).await.unwrap();
            let endpoint = Endpoint {
                caps: vec!["1 MB".parse().unwrap()],
                ..endpoint(&format!("https://{holds}.test"))
            };
            let expected = Upstream::new("docker.io".parse().unwrap(), vec![endpoint]).unwrap();
            assert_eq!(store.registries().await.unwrap(), [expected.to_wire()]);
            store.remove_registry(&"registry-1.docker.io".parse().unwrap()).await.unwrap();
        }
    }

    async fn found_with_first_migration(dir: &Path) {
        let options = SqliteConnectOptions::new().filename(dir.join(FILE)).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        Migrator::with_migrations(migrations().into_iter().take(1).collect()).run(&pool).await.unwrap();
        for statement in [
            "INSERT INTO registries VALUES ('reg.test')",
            "INSERT INTO endpoints VALUES ('reg.test', 0, 'https://a.test', '', '10.0.0.9:443')",
        ] {
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
        pool.close().await;
    }

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::new(url.parse().unwrap())
    }

    fn other() -> Upstream {
        Upstream::new("other.test".parse().unwrap(), vec![endpoint("https://other.test")]).unwrap()
    }

    /// Nothing of it is as it is by default.
    fn all_said() -> Upstream {
        let first = Endpoint {
            weight: 7_u32.try_into().unwrap(),
            proxy: Some("http://proxy.test:3128".parse().unwrap()),
            caps: vec!["50 MB@22:00-06:00".parse().unwrap(), "10 MB".parse().unwrap()],
            ..endpoint("https://a.test")
        };
        let second = Endpoint { standby: true, ..endpoint("https://b.test") };
        Upstream {
            release: Release::Verified,
            proxy_cache: true,
            count_pulls: false,
            offline: Offline::granted(Duration::from_secs(3600)).unwrap(),
            grants: GrantLife::Strict,
            trust: Some("ours".parse().unwrap()),
            ..Upstream::new("reg.test".parse().unwrap(), vec![first, second]).unwrap()
        }
    }
}
