//! Starting, and starting again.

use std::os::unix::fs::PermissionsExt as _;

use flotilla_manager::{Config, Manager};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::Cluster;

#[tokio::test]
async fn a_second_start_keeps_the_ca_the_topology_and_the_daemons() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let ca = cluster.admin().ca().clone();
    cluster.stop_manager().await;
    cluster.start_manager().await;
    assert_eq!(cluster.admin().ca(), &ca);
    assert!(cluster.run("region list").await.unwrap().contains("eu"));
    peer.renew().await.unwrap();
}

#[tokio::test]
async fn what_is_secret_is_readable_by_the_manager_s_user_alone() {
    let cluster = Cluster::start().await;
    let dir = &cluster.config.data_dir;
    for file in ["manager.db", "ca-key.pem", "identity/key.pem", "admin/key.pem"] {
        let mode = std::fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    for directory in ["", "identity", "admin"] {
        let mode = std::fs::metadata(dir.join(directory)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{directory}");
    }
}

#[tokio::test]
async fn a_port_in_use_names_its_key() {
    let cluster = Cluster::start().await;
    let other = tempfile::tempdir().unwrap();
    let config = Config { data_dir: other.path().to_owned(), ..cluster.config.clone() };
    let error = start_error(&config).await;
    assert!(error.starts_with(&format!("listen {}: address in use", cluster.address)), "{error}");

    let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..config };
    config.admin.listen = cluster.admin_address;
    let error = start_error(&config).await;
    assert!(error.starts_with(&format!("admin.listen {}: address in use", cluster.admin_address)), "{error}");
}

#[tokio::test]
async fn a_directory_of_another_cluster_is_refused() {
    let mut cluster = Cluster::start().await;
    cluster.stop_manager().await;
    let config = Config { cluster: "other".parse().unwrap(), ..cluster.config.clone() };
    let error = start_error(&config).await;
    assert!(error.contains("belongs to the cluster `flotilla`, but `cluster` says `other`"), "{error}");
}

#[tokio::test]
async fn a_lost_ca_key_is_not_replaced_in_silence() {
    let mut cluster = Cluster::start().await;
    cluster.stop_manager().await;
    let key = cluster.config.data_dir.join("ca-key.pem");
    std::fs::remove_file(&key).unwrap();
    let error = start_error(&cluster.config).await;
    assert!(error.starts_with(&format!("{} is gone", key.display())), "{error}");
}

#[tokio::test]
async fn a_damaged_identity_of_its_own_is_made_anew() {
    let mut cluster = Cluster::start().await;
    cluster.stop_manager().await;
    std::fs::write(cluster.config.data_dir.join("admin/key.pem"), "torn").unwrap();
    cluster.start_manager().await;
    cluster.run("region list").await.unwrap();
}

#[tokio::test]
async fn the_metrics_count_certificates() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.enrol("node-1", "eu", "peer").await;
    let mut stream = TcpStream::connect(cluster.admin_address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\nflotilla_manager_certificates_issued_total 1\n"), "{answer}");
    assert!(answer.contains("\nflotilla_manager_daemons_connected 0\n"), "{answer}");
}

async fn start_error(config: &Config) -> String {
    match Manager::start(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    }
}
