//! The proxy towards hosts that are no configured registry.

use std::sync::Arc;

use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::client::{roots_of, tls_through};
use crate::cluster::within;
use crate::region::Region;
use crate::registry::HOST;

#[tokio::test]
async fn tls_with_a_host_that_is_not_configured_passes_untouched() {
    let region = Region::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();

    let mut stream = tls_through(region.one.client.door, "localhost", port, &Arc::new(roots)).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(shown, *certificate.der());
    let mut said = String::new();
    within(stream.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "hello");
}

#[tokio::test]
async fn a_configured_registry_is_played_with_a_certificate_that_only_this_node_s_bundle_vouches_for() {
    let region = Region::start().await;
    let door = region.one.client.door;
    tls_through(door, HOST, 443, &roots_of(&region.one.bundle())).await.unwrap();
    let error = tls_through(door, HOST, 443, &roots_of(&region.two.bundle())).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn tunnels_and_opened_tls_end_with_the_daemon() {
    let region = Region::start().await;
    let door = region.one.client.door;
    let mut opened = tls_through(door, HOST, 443, &roots_of(&region.one.bundle())).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    let mut tunnel = TcpStream::connect(door).await.unwrap();
    tunnel.write_all(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nhi").as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    assert_eq!(within(far.read_u16()).await.unwrap(), u16::from_be_bytes(*b"hi"));

    region.cluster.shutdown.cancel();
    within(far.read_u8()).await.unwrap_err();
    // Cut rather than closed: an end without TLS's own goodbye is an error too.
    within(opened.read_u8()).await.unwrap_err();
}

#[tokio::test]
async fn a_tunnel_to_nowhere_is_refused_with_the_reason() {
    let region = Region::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let answer = connect(&region, &nowhere.to_string(), "").await;
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains(&format!("connect to {nowhere}")),
        "{answer}"
    );
}

#[tokio::test]
async fn plain_http_is_carried_for_configured_registries_only() {
    let region = Region::start().await;
    region.registry.push("app", "v1", &[]);
    let client = &region.one.client;
    let answer = client.get(&format!("http://{HOST}/v2/app/manifests/v1")).await;
    assert_eq!(answer.status, 200);
    let answer = client.get("http://other.test/v2/app/manifests/v1").await;
    assert_eq!((answer.status.as_u16(), answer.error().0.as_str()), (403, "DENIED"));
}

#[tokio::test]
async fn a_tunnel_leads_only_where_the_list_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    let listed = format!("{}", host.ip());
    let region = Region::start_with(|config| config.door.tunnels = Some(vec![listed.parse().unwrap()])).await;
    let answer = connect(&region, "other.test:443", "").await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("door.tunnels"), "{answer}");
    let mut tunnel = TcpStream::connect(region.one.client.door).await.unwrap();
    tunnel.write_all(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nhi").as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    assert_eq!(within(far.read_u16()).await.unwrap(), u16::from_be_bytes(*b"hi"));
    // The registries are no tunnels.
    tls_through(region.one.client.door, HOST, 443, &roots_of(&region.one.bundle())).await.unwrap();
}

#[tokio::test]
async fn on_a_shared_host_the_proxy_knows_its_users() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, "alice:s3cret\n").unwrap();
    let region = Region::start_with(|config| config.door.proxy_users = Some(users.clone())).await;
    let alice = "Proxy-Authorization: Basic YWxpY2U6czNjcmV0\r\n";
    for header in ["", "Proxy-Authorization: Basic YWxpY2U6d3Jvbmc=\r\n"] {
        let answer = connect(&region, &format!("{HOST}:443"), header).await;
        assert!(
            answer.starts_with("HTTP/1.1 407") && answer.contains("proxy-authenticate: Basic"),
            "{answer}"
        );
    }
    let answer = connect(&region, "127.0.0.1:1", alice).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "known, and led nowhere: {answer}");
    // A mirror's clients are no proxy's.
    region.registry.push("app", "v1", &[]);
    assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
}

/// What a CONNECT that leads nowhere is answered.
async fn connect(region: &Region, host: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(region.one.client.door).await.unwrap();
    let head = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}
