//! Who may join, and who may not.

use std::str::FromStr as _;

use flotilla_daemon::config::ManagerConfig;
use flotilla_daemon::identity::NodeIdentity;
use flotilla_proto::JoinTokenText;
use flotilla_proto::wire::manager::JoinToken;
use sqlx::Connection as _;

use crate::harness::Cluster;

#[tokio::test]
async fn a_daemon_that_shows_a_token_becomes_one_of_its_region() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    assert_eq!(peer.identity().to_string(), "flotilla://flotilla/eu/peer/node-1");
    assert!(cluster.run("peer list").await.unwrap().contains("node-1"));
}

#[tokio::test]
async fn an_enrolled_daemon_starts_again_without_token_and_manager() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    cluster.stop_manager().await;
    let again = cluster.enrol_with("node-1", "not even a token").await.unwrap();
    assert_eq!(again.identity(), peer.identity());
}

#[tokio::test]
async fn a_token_that_nobody_made_is_refused() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let token = JoinTokenText::from_str(&cluster.token("eu", "peer").await).unwrap();
    let forged = JoinTokenText::from(JoinToken { secret: "guessed".into(), ..token.token().clone() });
    let error = cluster.enrol_with("node-1", &forged.to_string()).await.unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("the join token is unknown"), "{error}");
}

#[tokio::test]
async fn a_token_that_promises_another_role_gives_only_its_own() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let token = JoinTokenText::from_str(&cluster.token("eu", "peer").await).unwrap();
    let forged = JoinTokenText::from(JoinToken { role: "seed".into(), ..token.token().clone() });
    let peer = cluster.enrol_with("node-1", &forged.to_string()).await.unwrap();
    assert_eq!(peer.identity().role, flotilla_proto::Role::Peer);
}

#[tokio::test]
async fn an_expired_token_is_refused_with_the_time() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let token = cluster.token("eu", "peer").await;
    let url = format!("sqlite://{}", cluster.config.data_dir.join("manager.db").display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE tokens SET expires_at = 1700000000").execute(&mut database).await.unwrap();
    let error = cluster.enrol_with("node-1", &token).await.unwrap_err().to_string();
    assert!(error.contains("expired at 2023-11-14T22:13:20Z"), "{error}");
}

#[tokio::test]
async fn a_token_for_one_use_is_used_up_by_it() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let token = cluster.token_with("--region eu --role peer --uses 1").await;
    cluster.enrol_with("node-1", &token).await.unwrap();
    let error = cluster.enrol_with("node-2", &token).await.unwrap_err().to_string();
    assert!(error.contains("is used up"), "{error}");
}

#[tokio::test]
async fn a_refused_enrolment_spends_no_use() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.enrol("node-1", "eu", "scheduler").await;
    let token = cluster.token_with("--region eu --role peer --uses 1").await;
    std::fs::remove_dir_all(cluster.daemon_dir("node-1")).unwrap();
    cluster.enrol_with("node-1", &token).await.unwrap_err();
    cluster.enrol_with("node-2", &token).await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_is_refused() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let token = cluster.token("eu", "peer").await;
    let tokens: serde_json::Value =
        serde_json::from_str(&cluster.run("token list --output json").await.unwrap()).unwrap();
    cluster.run(&format!("token revoke {}", tokens[0]["id"].as_str().unwrap())).await.unwrap();
    let error = cluster.enrol_with("node-1", &token).await.unwrap_err().to_string();
    assert!(error.contains("revoked"), "{error}");
}

#[tokio::test]
async fn a_name_that_has_another_role_cannot_be_taken() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.run("region add us").await.unwrap();
    cluster.enrol("planner", "eu", "scheduler").await;
    std::fs::remove_dir_all(cluster.daemon_dir("planner")).unwrap();
    for (region, role) in [("eu", "peer"), ("us", "scheduler")] {
        let token = cluster.token(region, role).await;
        let error = cluster.enrol_with("planner", &token).await.unwrap_err().to_string();
        assert!(error.contains("`planner` is taken by a scheduler of region `eu`"), "{error}");
    }
}

#[tokio::test]
async fn a_daemon_that_lost_its_disk_enrols_again_under_its_name_once_it_is_removed() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let before = cluster.enrol("node-1", "eu", "peer").await;
    std::fs::remove_dir_all(cluster.daemon_dir("node-1")).unwrap();
    cluster.run("peer remove node-1").await.unwrap();
    let after = cluster.enrol("node-1", "eu", "peer").await;
    assert_eq!(before.identity(), after.identity());
}

#[tokio::test]
async fn the_names_of_the_manager_and_the_admin_are_reserved() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let token = cluster.token("eu", "scheduler").await;
    for name in ["manager", "admin"] {
        let error = cluster.enrol_with(name, &token).await.unwrap_err().to_string();
        assert!(error.contains(&format!("the name `{name}` is reserved")), "{error}");
    }
}

#[tokio::test]
async fn no_secret_of_a_token_is_on_the_manager_s_disk() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let text = cluster.token("eu", "peer").await;
    let secret = JoinTokenText::from_str(&text).unwrap().token().secret.clone();
    cluster.stop_manager().await;
    let mut files = 0;
    for entry in std::fs::read_dir(&cluster.config.data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            for needle in [&secret, &text] {
                let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
                assert!(!found, "{}", path.display());
            }
        }
    }
    assert!(files >= 3, "the database, the CA and its key");
}

#[tokio::test]
async fn a_manager_that_is_away_is_named_when_enrolment_needs_it() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let token = cluster.token("eu", "peer").await;
    cluster.stop_manager().await;
    let error = cluster.enrol_with("node-1", &token).await.unwrap_err().to_string();
    let expected = format!("enrol with the manager at https://{}: connect to ", cluster.address);
    assert!(error.starts_with(&expected) && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_daemon_without_identity_and_token_is_told_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let none = ManagerConfig::default();
    let opened = NodeIdentity::open(dir.path(), &"a".parse().unwrap(), &none).await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("flotilla token create") && error.contains("manager.join_token_file"), "{error}");
}

#[tokio::test]
async fn a_directory_of_another_daemon_is_refused() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.enrol("node-1", "eu", "peer").await;
    let none = ManagerConfig::default();
    let dir = cluster.daemon_dir("node-1");
    let opened = NodeIdentity::open(&dir, &"node-2".parse().unwrap(), &none).await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("holds the identity of `node-1`, but this daemon is `node-2`"), "{error}");
}
