//! Reading certificates of the cluster: whose one is, and how long it is good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_proto::{Identity, KeyHash, ParseIdentityError};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Whose certificate stands first in `certs`, by its URI SAN. Only for certificates whose
/// chain a TLS handshake has verified: this reads, it does not check.
///
/// # Errors
///
/// If there is no certificate, or it does not carry exactly one identity.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Result<Identity, PeerIdentityError> {
    let certificate = certs.first().ok_or(PeerIdentityError::NoCertificate)?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerIdentityError::Unreadable)?;
    let names = parsed.subject_alternative_name().map_err(|_| PeerIdentityError::Unreadable)?;
    let mut uris =
        names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.parse()?),
        _ => Err(PeerIdentityError::NotOneIdentity),
    }
}

/// For which key the first of `certs` is. As [`peer_identity`], it reads and does not check.
///
/// # Errors
///
/// If there is no certificate, or it cannot be read.
pub fn peer_key(certs: &[CertificateDer<'_>]) -> Result<KeyHash, PeerIdentityError> {
    let certificate = certs.first().ok_or(PeerIdentityError::NoCertificate)?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerIdentityError::Unreadable)?;
    Ok(KeyHash::of(parsed.public_key().raw))
}

/// How long a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when on, [`BACKDATED`] before it was issued.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

impl Validity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, PeerIdentityError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| PeerIdentityError::Unreadable)?;
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
        })
    }

    /// When to renew: after two thirds of the life that began when it was issued, so that
    /// a third is left to find the manager in.
    pub fn renew_at(&self) -> SystemTime {
        let issued = self.not_before + BACKDATED;
        let life = self.not_after.duration_since(issued).unwrap_or_default();
        issued + life * 2 / 3
    }
}

/// How far a certificate's life begins before it is issued, for daemons whose clock is late.
pub const BACKDATED: Duration = Duration::from_secs(2 * 60 * 60);

/// Why a certificate does not say who its holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// None was presented.
    #[error("no certificate")]
    NoCertificate,
    /// Not X.509.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// No URI SAN, or several.
    #[error("the certificate does not carry exactly one identity")]
    NotOneIdentity,
    /// A URI SAN that is no identity.
    #[error("the certificate carries no identity: {0}")]
    Identity(#[from] ParseIdentityError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_after_two_thirds_of_the_issued_life() {
        let issued = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let validity =
            Validity { not_before: issued - BACKDATED, not_after: issued + Duration::from_secs(300) };
        assert_eq!(validity.renew_at(), issued + Duration::from_secs(200));
    }
}
