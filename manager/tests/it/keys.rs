//! Which key a name has, and how often a join token gives one.

use flotilla_daemon::config::ManagerConfig;
use flotilla_daemon::identity::{NodeIdentity, OpenIdentityError, manager_id, peer_key};
use flotilla_daemon::rpc::{self, EnrolmentClient};
use flotilla_daemon::start::MayPass as _;
use flotilla_proto::wire::manager::{Certificate, EnrollRequest, RenewRequest};
use flotilla_proto::{JoinTokenText, KeyHash};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use tonic::{Code, Status};

use crate::harness::Cluster;
use crate::tls::rustls_client;

#[tokio::test]
async fn the_same_token_with_the_same_key_gets_the_same_answer() {
    let cluster = Cluster::with_region().await;
    let (token, key) = (cluster.token("eu", "peer").await, new_key());
    let first = join(&cluster, &token, "node-1", &key, None).await.unwrap();
    let again = join(&cluster, &token, "node-1", &key, None).await.unwrap();
    assert_eq!((identity(&first), key_of(&first)), (identity(&again), hash(&key)));

    // Neither under another name, nor for another key.
    for (name, key) in [("node-2", &key), ("node-1", &new_key()), ("node-2", &new_key())] {
        let refused = join(&cluster, &token, name, key, None).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("is used up, last by `node-1`; make another"), "{refused}");
        assert!(refused.message().contains("`flotilla token create --region eu --role peer`"), "{refused}");
    }
    assert!(cluster.run("token list").await.unwrap().contains(" node-1 "));
}

#[tokio::test]
async fn a_token_is_for_as_many_daemons_as_it_says() {
    let cluster = Cluster::with_region().await;
    for (uses, listed, serves) in [("1", "0", 1), ("3", "0", 3), ("unlimited", "unlimited", 4)] {
        let token = cluster.token_with(&format!("--region eu --role peer --uses {uses}")).await;
        let mut served = 0;
        for number in 0..4 {
            let name = format!("uses-{uses}-{number}");
            served += usize::from(join(&cluster, &token, &name, &new_key(), None).await.is_ok());
        }
        assert_eq!(served, serves, "{uses}");
        let last = format!("{listed:9}  uses-{uses}-{}", serves - 1);
        let tokens = cluster.run("token list").await.unwrap();
        assert!(tokens.contains(last.trim_end()), "{last}: {tokens}");
    }
    for nonsense in ["0", "-1", "many"] {
        let refused = cluster.run(&format!("token create --region eu --role peer --uses={nonsense}")).await;
        assert!(refused.unwrap_err().contains("a number from 1 on, or `unlimited`"), "{nonsense}");
    }
}

#[tokio::test]
async fn a_name_is_not_given_to_another_key_until_its_daemon_is_removed() {
    let cluster = Cluster::with_region().await;
    let former = cluster.enrol("node-1", "eu", "peer").await;
    // As the same machine does when its disk was lost, and an impostor with a token of the same role.
    let manager = ManagerConfig {
        join_token: Some(cluster.token("eu", "peer").await.into()),
        ..ManagerConfig::default()
    };
    let (dir, name) = (cluster.daemon_dir("elsewhere"), "node-1".parse().unwrap());
    let refused = NodeIdentity::open(&dir, &name, &manager).await.unwrap_err().to_string();
    assert!(refused.contains("the name `node-1` belongs to a daemon with another key"), "{refused}");
    assert!(refused.contains("flotilla peer remove node-1"), "{refused}");
    former.renew().await.unwrap();

    cluster.run("peer remove node-1").await.unwrap();
    let latter = NodeIdentity::open(&dir, &name, &manager).await.unwrap();
    assert_eq!((latter.identity(), latter.key() == former.key()), (former.identity(), false));
    latter.renew().await.unwrap();
    let refused = former.renew().await.unwrap_err().to_string();
    assert!(refused.contains("its name has another key"), "{refused}");
}

#[tokio::test]
async fn a_name_goes_to_another_key_if_the_former_one_signs_that() {
    let cluster = Cluster::with_region().await;
    let (former, latter, stranger) = (new_key(), new_key(), new_key());
    join(&cluster, &cluster.token("eu", "peer").await, "node-1", &former, None).await.unwrap();
    let token = cluster.token("eu", "peer").await;
    for consent in [
        consent(&stranger, &latter),
        consent(&former, &stranger),
        CertificateParams::default().serialize_request(&former).unwrap().der().to_vec(),
    ] {
        let refused = join(&cluster, &token, "node-1", &latter, Some(consent)).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
    }
    let joined = join(&cluster, &token, "node-1", &latter, Some(consent(&former, &latter))).await.unwrap();
    assert_eq!(key_of(&joined), hash(&latter));
    // The former one is revoked: it takes the name back by no token.
    let token = cluster.token("eu", "peer").await;
    let refused = join(&cluster, &token, "node-1", &former, Some(consent(&latter, &former))).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_daemon_whose_certificate_expired_takes_another_key_at_its_former_one_s_word() {
    let cluster = Cluster::with_region().await;
    let former = cluster.enrol("node-1", "eu", "peer").await;
    cluster.expire(&former);
    let latter = cluster.enrol("node-1", "eu", "peer").await;
    assert_eq!((latter.identity(), latter.key() == former.key()), (former.identity(), false));
}

/// As when a machine's disk is copied before it has joined.
#[tokio::test]
async fn a_key_belongs_to_one_daemon() {
    let cluster = Cluster::with_region().await;
    let key = new_key();
    join(&cluster, &cluster.token("eu", "peer").await, "node-1", &key, None).await.unwrap();
    let token = cluster.token("eu", "peer").await;
    let refused = join(&cluster, &token, "node-2", &key, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("belongs to `node-1`"), "{refused}");
    join(&cluster, &token, "node-2", &new_key(), None).await.unwrap();
}

#[tokio::test]
async fn a_renewal_is_for_the_same_key() {
    let cluster = Cluster::with_region().await;
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let csr_der = CertificateParams::default().serialize_request(&new_key()).unwrap().der().to_vec().into();
    let mut manager = EnrolmentClient::new(rpc::manager_channel(&peer));
    let refused = manager.renew(RenewRequest { csr_der }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    peer.renew().await.unwrap();
}

/// A daemon keeps its key before it shows it.
#[tokio::test]
async fn an_answer_that_was_lost_costs_no_second_token() {
    let cluster = Cluster::with_region().await;
    let (token, key) = (cluster.token("eu", "peer").await, new_key());
    keep_joining_key(&cluster, &key);
    join(&cluster, &token, "node-1", &key, None).await.unwrap();

    let joined = cluster.enrol_with("node-1", &token).await.unwrap();
    assert_eq!(joined.key(), hash(&key));
    assert!(!cluster.daemon_dir("node-1").join("joining.pem").exists());
}

#[tokio::test]
async fn a_daemon_that_was_removed_before_it_had_its_answer_takes_another_key() {
    let cluster = Cluster::with_region().await;
    let key = new_key();
    keep_joining_key(&cluster, &key);
    join(&cluster, &cluster.token("eu", "peer").await, "node-1", &key, None).await.unwrap();
    cluster.run("peer remove node-1").await.unwrap();

    let token = cluster.token("eu", "peer").await;
    let refused = cluster.enrol_with("node-1", &token).await.unwrap_err();
    assert!(refused.may_pass() && refused.to_string().contains("was revoked"), "{refused}");
    let joined = cluster.enrol_with("node-1", &token).await.unwrap();
    assert_ne!(joined.key(), hash(&key));
}

#[tokio::test]
async fn the_file_of_a_used_token_is_deleted_where_that_may_be() {
    let cluster = Cluster::with_region().await;
    let file = cluster.dir.path().join("token");
    std::fs::write(&file, cluster.token("eu", "peer").await).unwrap();
    open(&cluster, "node-1", &file).await.unwrap();
    assert!(!file.exists());
    // It needs none from here on.
    open(&cluster, "node-1", &file).await.unwrap();

    // Not even root may remove a name from this directory.
    std::fs::write(&file, cluster.token("eu", "peer").await).unwrap();
    let opened = std::fs::File::open(&file).unwrap();
    let fixed = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
    open(&cluster, "node-2", fixed.as_ref()).await.unwrap();
    assert!(file.exists());
}

async fn open(
    cluster: &Cluster,
    name: &str,
    token_file: &std::path::Path,
) -> Result<NodeIdentity, OpenIdentityError> {
    let manager = ManagerConfig { join_token_file: Some(token_file.to_owned()), ..ManagerConfig::default() };
    NodeIdentity::open(&cluster.daemon_dir(name), &name.parse().unwrap(), &manager).await
}

/// Joins as a daemon does, with a key of the test's choice.
pub(crate) async fn join(
    cluster: &Cluster,
    token: &str,
    name: &str,
    key: &KeyPair,
    consent: Option<Vec<u8>>,
) -> Result<Certificate, Status> {
    let token: JoinTokenText = token.parse().unwrap();
    let csr_der = CertificateParams::default().serialize_request(key).unwrap().der().to_vec().into();
    let request = EnrollRequest {
        secret: token.token().secret.clone(),
        id: name.into(),
        csr_der,
        former_csr_der: consent.unwrap_or_default().into(),
    };
    let tls = rustls_client(cluster, None);
    let channel = rpc::channel_over(tls, &[&cluster.address.to_string()], &manager_id());
    Ok(EnrolmentClient::new(channel).enroll(request).await?.into_inner())
}

pub(crate) fn new_key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(crate) fn hash(key: &KeyPair) -> KeyHash {
    KeyHash::of(&key.subject_public_key_info())
}

/// That `former` agrees that `latter` takes its place.
fn consent(former: &KeyPair, latter: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, hash(latter).to_string());
    params.serialize_request(former).unwrap().der().to_vec()
}

fn keep_joining_key(cluster: &Cluster, key: &KeyPair) {
    let dir = cluster.daemon_dir("node-1");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("joining.pem"), key.serialize_pem()).unwrap();
}

fn identity(certificate: &Certificate) -> &str {
    &certificate.identity
}

fn key_of(certificate: &Certificate) -> KeyHash {
    peer_key(&[CertificateDer::from(certificate.chain_der[0].to_vec())]).unwrap()
}
