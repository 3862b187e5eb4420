//! What daemons learn of one that was removed, and for how long.

use std::time::Duration;

use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::rpc::{self, SettingsClient};
use flotilla_daemon::settings::MAX_REVOKED_KEYS;
use flotilla_proto::wire::manager::{RegionSettings, WatchRequest};
use sqlx::{Connection as _, SqliteConnection};
use tonic::{Code, Streaming};

use crate::harness::{Cluster, settled, within};
use crate::keys::{hash, join, new_key};

/// The bound is the product's.
#[tokio::test]
async fn the_key_of_a_removed_daemon_reaches_every_region_within_five_seconds_and_is_kept() {
    let mut cluster = Cluster::with_region().await;
    cluster.run("region add us").await.unwrap();
    let removed = cluster.enrol("node-1", "eu", "peer").await;
    let (near, far) =
        (cluster.enrol("planner", "eu", "scheduler").await, cluster.enrol("far-1", "us", "peer").await);
    let mut watching = [cluster.watch(&near, "10.0.0.2:4003"), cluster.watch(&far, "10.0.0.3:4006")];
    for settings in &mut watching {
        settled(settings, |settings| settings.revision > 0).await;
    }
    assert!(!near.revoked_keys().contains(&removed.key()));

    let said = cluster.run("peer remove node-1").await.unwrap();
    assert!(said.starts_with("daemon node-1 removed; its key is revoked: daemons"), "{said}");
    let told = async {
        near.revoked_keys().until_revoked(removed.key()).await;
        far.revoked_keys().until_revoked(removed.key()).await;
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("within 5 s");
    assert!(!near.revoked_keys().contains(&near.key()));

    // A daemon that starts while the manager is away knows it from its disk.
    settled(&mut watching[0], |settings| settings.revoked_keys.contains(&removed.key())).await;
    cluster.stop_watching().await;
    cluster.stop_manager().await;
    let again = NodeIdentity::load(&cluster.daemon_dir("planner")).unwrap();
    assert!(!again.revoked_keys().contains(&removed.key()));
    let _settings = cluster.watch(&again, "10.0.0.2:4003");
    assert!(again.revoked_keys().contains(&removed.key()));
}

#[tokio::test]
async fn a_name_that_enrolled_again_gives_its_former_key_nothing() {
    let cluster = Cluster::with_region().await;
    let former = cluster.enrol("node-1", "eu", "peer").await;
    cluster.run("peer remove node-1").await.unwrap();
    std::fs::remove_dir_all(cluster.daemon_dir("node-1")).unwrap();
    let latter = cluster.enrol("node-1", "eu", "peer").await;

    let refused = watch(&former, &WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut stream = watch(&latter, &WatchRequest::default()).await.unwrap();
    let settings = within(stream.message()).await.unwrap().unwrap();
    assert_eq!(settings.revoked_keys, [former.key().as_bytes().to_vec()]);
}

#[tokio::test]
async fn a_revoked_key_is_forgotten_when_its_certificates_have_ended_and_may_not_join_before() {
    let cluster = Cluster::with_region().await;
    let key = new_key();
    join(&cluster, &cluster.token("eu", "peer").await, "node-1", &key, None).await.unwrap();
    // As a manager knows it that was restored from a backup: it renewed since.
    alter(&cluster, "UPDATE daemons SET certificate_ends = 1700000000").await;
    cluster.run("peer remove node-1").await.unwrap();
    let token = cluster.token("eu", "peer").await;
    let refused = join(&cluster, &token, "node-2", &key, None).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains("revoked")), (Code::FailedPrecondition, true));

    let ends_at: i64 = sqlx::query_scalar("SELECT ends_at FROM revoked_keys")
        .fetch_one(&mut database(&cluster).await)
        .await
        .unwrap();
    let life = cluster.config.certificate_lifetime.as_secs().cast_signed();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
    assert!((now + life - 60..=now + life + 3 * 3600).contains(&ends_at), "{ends_at}");

    alter(&cluster, "UPDATE revoked_keys SET ends_at = 1700000000").await;
    let other = cluster.enrol("node-3", "eu", "peer").await;
    cluster.run("peer remove node-3").await.unwrap();
    let watcher = cluster.enrol("node-4", "eu", "peer").await;
    let mut stream = watch(&watcher, &WatchRequest::default()).await.unwrap();
    let settings = within(stream.message()).await.unwrap().unwrap();
    assert_eq!(settings.revoked_keys, [other.key().as_bytes().to_vec()]);
    assert!(!settings.revoked_keys.contains(&hash(&key).as_bytes().to_vec().into()));
    join(&cluster, &token, "node-2", &key, None).await.unwrap();
}

#[tokio::test]
async fn so_many_keys_are_revoked_at_most_and_replaced_ones_make_room_then_those_that_end_first() {
    let cluster = Cluster::with_region().await;
    let removed = [cluster.enrol("node-1", "eu", "peer").await, cluster.enrol("node-3", "eu", "peer").await];
    let watcher = cluster.enrol("node-2", "eu", "peer").await;
    alter(
        &cluster,
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 16384) \
         INSERT INTO revoked_keys SELECT randomblob(32), 'gone', unixepoch() + 3600 + n, n < 16384 FROM numbers",
    )
    .await;
    // The one that ends last was replaced by its own daemon.
    let mut going: Vec<Vec<u8>> = Vec::new();
    for order in ["removed, ends_at", "removed DESC, ends_at"] {
        let query = format!("SELECT key_hash FROM revoked_keys ORDER BY {order} LIMIT 1");
        let row =
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut database(&cluster).await).await;
        going.push(row.unwrap());
    }
    cluster.run("peer remove node-1").await.unwrap();
    cluster.run("peer remove node-3").await.unwrap();
    let mut stream = watch(&watcher, &WatchRequest::default()).await.unwrap();
    let keys = within(stream.message()).await.unwrap().unwrap().revoked_keys;
    assert_eq!((keys.len(), MAX_REVOKED_KEYS), (16_384, 16_384));
    for removed in removed {
        assert!(keys.contains(&removed.key().as_bytes().to_vec().into()));
    }
    for gone in going {
        assert!(!keys.contains(&gone.into()));
    }
}

/// An older version kept the settings of this revision on disk, and no keys.
#[tokio::test]
async fn a_daemon_that_knows_the_revision_but_not_the_keys_is_told_them() {
    let cluster = Cluster::with_region().await;
    cluster.enrol("node-1", "eu", "peer").await;
    cluster.run("peer remove node-1").await.unwrap();
    let peer = cluster.enrol("node-2", "eu", "peer").await;
    let mut stream = watch(&peer, &WatchRequest::default()).await.unwrap();
    let told = within(stream.message()).await.unwrap().unwrap();

    let known = WatchRequest { known_revision: told.revision, ..WatchRequest::default() };
    let mut stream = watch(&peer, &known).await.unwrap();
    assert_eq!(within(stream.message()).await.unwrap().unwrap(), told);
    // One that knows both is told of the next change first.
    let mut stream = watch(&peer, &WatchRequest { known_revoked_keys: 1, ..known }).await.unwrap();
    let next = async { within(stream.message()).await.unwrap().unwrap() };
    let (next, set) = tokio::join!(next, cluster.run("registry set reg.test --url https://reg.test"));
    set.unwrap();
    assert_eq!(next.registries.len(), 1);
}

#[tokio::test]
async fn a_daemon_that_enrolled_before_keys_were_kept_is_known_by_the_first_that_it_shows() {
    let cluster = Cluster::with_region().await;
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let absent = cluster.enrol("node-2", "eu", "peer").await;
    alter(&cluster, "UPDATE daemons SET key_hash = NULL, certificate_ends = 0, token = NULL").await;
    // Nobody knows whose it is.
    std::fs::remove_dir_all(cluster.daemon_dir("node-1")).unwrap();
    let token = cluster.token("eu", "peer").await;
    let refused = cluster.enrol_with("node-1", &token).await.unwrap_err().to_string();
    assert!(refused.contains("belongs to a daemon with another key"), "{refused}");

    watch(&peer, &WatchRequest::default()).await.unwrap();
    let said = cluster.run("peer remove node-1").await.unwrap();
    assert!(said.contains("its key is revoked"), "{said}");
    let said = cluster.run("peer remove node-2").await.unwrap();
    assert!(said.contains("its key is not known"), "{said}");
    absent.renew().await.unwrap_err();
    let revoked: Vec<Vec<u8>> = sqlx::query_scalar("SELECT key_hash FROM revoked_keys")
        .fetch_all(&mut database(&cluster).await)
        .await
        .unwrap();
    assert_eq!(revoked, [peer.key().as_bytes().to_vec()]);
}

async fn watch(
    identity: &NodeIdentity,
    request: &WatchRequest,
) -> Result<Streaming<RegionSettings>, tonic::Status> {
    let request = WatchRequest { address: "10.0.0.1:4006".into(), ..request.clone() };
    Ok(SettingsClient::new(rpc::manager_channel(identity)).watch(request).await?.into_inner())
}

async fn alter(cluster: &Cluster, change: &'static str) {
    sqlx::query(change).execute(&mut database(cluster).await).await.unwrap();
}

async fn database(cluster: &Cluster) -> SqliteConnection {
    let file = cluster.config.data_dir.join("manager.db");
    SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap()
}
