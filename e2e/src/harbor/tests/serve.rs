//! Certificates, protocols, stops.

use super::*;

#[test]
fn only_http_1_1_is_agreed_to() {
    let lab = Lab::start();
    let offered: [&[u8]; 2] = [b"h2", b"http/1.1"];
    assert_eq!(lab.client.alpn(Host::Registry, &offered), Ok(Some(b"http/1.1".to_vec())));
    assert!(lab.client.alpn(Host::Registry, &offered[..1]).is_err());
}

#[test]
fn a_host_shows_a_wrong_certificate_on_demand() {
    let lab = Lab::start();
    for (wrong, why) in
        [(Certificate::OtherName, "not valid for name"), (Certificate::UnknownAuthority, "UnknownIssuer")]
    {
        lab.harbor.show(Host::Storage, wrong).unwrap();
        let error = lab.client.alpn(Host::Storage, &[]).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert_eq!(lab.client.alpn(Host::Registry, &[]), Ok(None));
    }
    lab.harbor.show(Host::Storage, Certificate::Right).unwrap();
    assert_eq!(lab.client.alpn(Host::Storage, &[]), Ok(None));
}

#[test]
fn a_stopped_harbor_refuses_connections() {
    let mut lab = Lab::start();
    lab.harbor.stop();
    let error = lab.client.alpn(Host::Registry, &[]).unwrap_err();
    assert!(error.contains("refused"), "{error}");
}
