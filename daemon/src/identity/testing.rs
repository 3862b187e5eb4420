//! A CA of the tests' own; the manager has the real one.

use std::path::Path;

use flotilla_proto::wire::manager::JoinToken;
use flotilla_proto::{Identity, JoinTokenText};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

use super::{IdentityBundle, NodeIdentity};

pub(crate) struct TestCa(CertifiedIssuer<'static, KeyPair>);

impl TestCa {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A join token for a manager at `address`.
    pub(crate) fn token(&self, address: impl std::fmt::Display) -> JoinTokenText {
        JoinTokenText::from(JoinToken {
            manager: format!("https://{address}"),
            ca_der: self.0.der().to_vec().into(),
            secret: "secret".into(),
            region: "eu".into(),
            role: "peer".into(),
        })
    }

    /// An identity such as `flotilla://prod/eu/peer/node-1`, kept in `dir`.
    pub(crate) fn identity(&self, dir: &Path, identity: &str) -> NodeIdentity {
        let id = identity.parse::<Identity>().unwrap().id;
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI(identity.try_into().unwrap()),
            SanType::DnsName(id.dns_name().try_into().unwrap()),
        ];
        let bundle = IdentityBundle {
            chain: vec![params.signed_by(&key, &self.0).unwrap().into()],
            key_pem: key.serialize_pem(),
            ca: self.0.der().clone(),
            manager: "https://127.0.0.1:4000".parse().unwrap(),
        };
        NodeIdentity::create(dir, &bundle).unwrap()
    }
}
