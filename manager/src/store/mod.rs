//! The manager's state in SQLite: regions, registries, daemons and their keys, join tokens.
//!
//! Every change of what daemons are told raises the revision in the same transaction.
//! What goes in has been parsed; what comes out is as it went in.

mod daemons;
mod enrolments;
mod keys;
mod regions;
mod registries;
mod tokens;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_daemon::start::{MayPass, io_may_pass};
use flotilla_proto::RegionName;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlSafeStr as _, Sqlite, SqlitePool, Transaction};

pub(crate) use daemons::Removal;
pub(crate) use enrolments::{Applicant, Enrolled, EnrolmentRefused};
pub(crate) use keys::CertifiedKey;
pub(crate) use regions::RegionChangeError;
pub(crate) use registries::RegistryChangeError;
pub(crate) use tokens::{NewToken, TokenChangeError, TokenRow};

/// The database; a clone is the same one.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pool: SqlitePool,
}

impl Store {
    /// The database in `data_dir`, made at the first start and brought up to date.
    pub(crate) async fn open(data_dir: &Path, cluster: &RegionName) -> Result<Self, OpenStoreError> {
        let file = data_dir.join(FILE);
        // SQLite would make it readable to all; its companions take over its mode.
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&file)
            .map_err(|source| OpenStoreError::File { file: file.clone(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let open = |source| OpenStoreError::Open { file: file.clone(), source };
        let pool = SqlitePoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(open)?;
        Migrator::with_migrations(migrations()).run(&pool).await?;
        let store = Self { pool };
        let held = store.claim(cluster).await.map_err(open)?;
        if held != cluster.as_str() {
            return Err(OpenStoreError::OtherCluster { file, held, asked: cluster.clone() });
        }
        Ok(store)
    }

    /// The name of the cluster whose database this is, `cluster` if it is nobody's yet.
    async fn claim(&self, cluster: &RegionName) -> Result<String, sqlx::Error> {
        sqlx::query("INSERT INTO cluster (id, name, revision) VALUES (1, ?, 1) ON CONFLICT DO NOTHING")
            .bind(cluster.as_str())
            .execute(&self.pool)
            .await?;
        sqlx::query_scalar("SELECT name FROM cluster").fetch_one(&self.pool).await
    }

    /// How often what daemons are told has changed.
    pub(crate) async fn revision(&self) -> Result<u64, sqlx::Error> {
        let revision: i64 = sqlx::query_scalar("SELECT revision FROM cluster").fetch_one(&self.pool).await?;
        Ok(revision.cast_unsigned())
    }

    /// A transaction that will write: taking the lock at once, it cannot fail half way
    /// because another one wrote meanwhile.
    async fn begin_write(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.pool.begin_with("BEGIN IMMEDIATE").await
    }
}

/// Embedded without sqlx's macros: those would compile SQLite twice.
fn migrations() -> Vec<Migration> {
    let files = [
        ("topology", include_str!("../../migrations/sqlite/0001_topology.sql")),
        ("upstream options", include_str!("../../migrations/sqlite/0002_upstream_options.sql")),
        ("one docker hub", include_str!("../../migrations/sqlite/0003_one_docker_hub.sql")),
        ("strict grants", include_str!("../../migrations/sqlite/0004_strict_grants.sql")),
        ("keys", include_str!("../../migrations/sqlite/0005_keys.sql")),
        ("trust", include_str!("../../migrations/sqlite/0006_trust.sql")),
    ];
    let migration = |(version, (name, text)): (i64, (&'static str, &'static str))| {
        Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    (1..).zip(files).map(migration).collect()
}

async fn raise_revision(transaction: &mut Transaction<'static, Sqlite>) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE cluster SET revision = revision + 1").execute(&mut **transaction).await?;
    Ok(())
}

/// Seconds since 1970, as SQLite keeps them.
fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

const FILE: &str = "manager.db";
/// SQLite has one writer; a few readers beside it suffice.
const MAX_CONNECTIONS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no database to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenStoreError {
    #[error("open {}: {source}", file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("open {}: {source}", file.display())]
    Open { file: PathBuf, source: sqlx::Error },
    #[error("bring the database up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error(
        "{} belongs to the cluster `{held}`, but `cluster` says `{asked}`: give each cluster its own data_dir",
        file.display()
    )]
    OtherCluster { file: PathBuf, held: String, asked: RegionName },
}

impl MayPass for OpenStoreError {
    /// A disk may be mounted later, or have room again.
    fn may_pass(&self) -> bool {
        match self {
            Self::File { source, .. } => io_may_pass(source),
            Self::Open { .. } | Self::Migrate(_) | Self::OtherCluster { .. } => false,
        }
    }
}
