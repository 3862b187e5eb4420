//! Whom a client of registries believes to be a registry: who shows a chain to a trusted root, or the very certificate
//! that was configured.
//!
//! People make a server's certificate with `openssl req -x509`, which marks it as a CA, and name it as the registry's
//! CA. A chain of that one certificate is none by RFC 5280 (§4.2.1.9 makes no end entity of a CA), so rustls refuses
//! it. Yet who names a certificate itself leaves nothing to be proved but that it is the one, is meant for this name,
//! and is valid today.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// TLS towards registries that `roots` vouch for, or that show one of the certificates of `ca_pem`.
///
/// # Errors
///
/// If `ca_pem` holds something that is no certificate, or nothing at all.
pub fn client_config(
    mut roots: RootCertStore,
    ca_pem: Option<&str>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, ParseCaError> {
    let named = ca_pem.map(certificates).transpose()?.unwrap_or_default();
    for certificate in &named {
        roots.add(certificate.clone()).map_err(|_| ParseCaError::Certificate)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3");
    if named.is_empty() {
        return Ok(builder.with_root_certificates(roots));
    }
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let chains = chains.map_err(|error: VerifierBuilderError| ParseCaError::Unusable(error.to_string()))?;
    // The verifier below does all that the ordinary one does, but for the certificates that were named.
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { chains, named })))
}

/// The certificates of a PEM text.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, ParseCaError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all.map_err(|_| ParseCaError::Pem)? {
        none if none.is_empty() => Err(ParseCaError::Empty),
        all => Ok(all),
    }
}

#[derive(Debug)]
struct Verifier {
    chains: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.named.iter().any(|named| named == end_entity) {
            return self.chains.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        }
        is_valid_at(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn is_valid_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let at = |time: x509_parser::time::ASN1Time| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.timestamp().max(0).cast_unsigned()))
    };
    let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}

/// Why a CA file is no CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCaError {
    /// Not PEM.
    #[error("its CA is not PEM")]
    Pem,
    /// PEM without a certificate.
    #[error("its CA holds no certificate")]
    Empty,
    /// A PEM block that is no certificate.
    #[error("its CA holds a certificate that does not parse")]
    Certificate,
    /// Nothing that can be trusted.
    #[error("its CA cannot be used: {0}")]
    Unusable(String),
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// As `openssl req -x509 -addext subjectAltName=DNS:reg.test,IP:10.0.0.1` makes it.
    fn self_signed(is_ca: bool, adjust: impl FnOnce(&mut CertificateParams)) -> (String, ServerConfig) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["reg.test".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        adjust(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        (certificate.pem(), config)
    }

    /// A handshake over a pipe; what the client found wrong.
    async fn shaken(ca_pem: &str, server: ServerConfig, name: &'static str) -> Result<(), String> {
        let (here, there) = tokio::io::duplex(1 << 16);
        let client = client_config(RootCertStore::empty(), Some(ca_pem)).unwrap().with_no_client_auth();
        let accepting = TlsAcceptor::from(Arc::new(server)).accept(there);
        let connecting =
            TlsConnector::from(Arc::new(client)).connect(ServerName::try_from(name).unwrap(), here);
        let (connected, _) = tokio::join!(connecting, accepting);
        connected.map(drop).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_certificate_that_openssl_made_for_a_server_is_trusted_where_it_is_named() {
        for is_ca in [true, false] {
            for name in ["reg.test", "10.0.0.1"] {
                let (pem, server) = self_signed(is_ca, |_| {});
                assert_eq!(shaken(&pem, server, name).await, Ok(()), "{name}, CA: {is_ca}");
            }
        }
    }

    #[tokio::test]
    async fn a_named_certificate_is_still_one_for_its_names_and_its_time() {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let (pem, server) = self_signed(true, |_| {});
        let error = shaken(&pem, server, "other.test").await.unwrap_err();
        assert!(error.contains("other.test") && error.contains("reg.test"), "{error}");
        let (pem, server) = self_signed(true, |params| params.not_after = (now - day).into());
        assert!(shaken(&pem, server, "reg.test").await.unwrap_err().contains("expired"));
        let (pem, server) = self_signed(true, |params| params.not_before = (now + day).into());
        assert!(shaken(&pem, server, "reg.test").await.unwrap_err().contains("not valid yet"));
    }

    #[tokio::test]
    async fn another_self_signed_certificate_of_the_same_name_is_not_trusted() {
        let (pem, _) = self_signed(true, |_| {});
        let (_, impostor) = self_signed(true, |_| {});
        assert!(shaken(&pem, impostor, "reg.test").await.is_err());
    }

    #[test]
    fn a_ca_that_does_not_parse_says_why() {
        let error = |pem: &str| client_config(RootCertStore::empty(), Some(pem)).err();
        let block = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        assert_eq!(error("rubbish"), Some(ParseCaError::Empty));
        assert_eq!(error(&block("!")), Some(ParseCaError::Pem));
        assert_eq!(error(&block("AAAA")), Some(ParseCaError::Certificate));
    }
}
