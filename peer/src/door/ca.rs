//! This node's own certificate authorities: one per configured registry, so that a client
//! which trusts one trusts this node for that registry's name and for nothing else.
//!
//! Each is kept on disk (`ca/<host>.pem` and `.key`) and survives restarts: a CA that
//! changed would break every client that was told the old one. It is name-constrained to
//! its host (RFC 5280 §4.2.1.10). A constraint on DNS names alone would let a leaf with an
//! IP address pass, so all addresses are excluded; for a registry named by its address, all
//! DNS names.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use flotilla_daemon::files::{Access, write_atomic};
use flotilla_proto::RegistryHost;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// The authorities of this node, and the server configurations made with them.
pub(crate) struct Authorities {
    dir: PathBuf,
    bundle: PathBuf,
    server_by_host: DashMap<RegistryHost, Arc<ServerConfig>>,
}

/// One registry's authority.
struct Authority {
    pem: String,
    key: KeyPair,
}

impl Authorities {
    /// The authorities kept under `data_dir`.
    pub(crate) fn open(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("ca"),
            bundle: data_dir.join("ca-bundle.pem"),
            server_by_host: DashMap::new(),
        }
    }

    /// Makes what authorities are missing for these registries, and writes the bundle that
    /// clients are pointed at. Blocks on small files.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or written, or is damaged; the others are made all the same.
    pub(crate) fn prepare<'a>(
        &self,
        hosts: impl IntoIterator<Item = &'a RegistryHost>,
    ) -> Result<(), CaError> {
        let mut bundle = String::new();
        let mut failure = None;
        for host in hosts {
            match self.authority(host) {
                Ok(authority) => bundle.push_str(&authority.pem),
                Err(error) => failure = Some(error),
            }
        }
        write_atomic(&self.bundle, bundle.as_bytes(), Access::Public)
            .map_err(|error| CaError::file(&self.bundle, error))?;
        failure.map_or(Ok(()), Err)
    }

    /// How this node plays the registry towards its clients: HTTP/1.1 only.
    ///
    /// # Errors
    ///
    /// As [`Self::prepare`].
    pub(crate) fn server(&self, host: &RegistryHost) -> Result<Arc<ServerConfig>, CaError> {
        if let Some(server) = self.server_by_host.get(host) {
            return Ok(server.clone());
        }
        let authority = self.authority(host)?;
        let server = Arc::new(authority.server(host)?);
        self.server_by_host.insert(host.clone(), server.clone());
        Ok(server)
    }

    fn authority(&self, host: &RegistryHost) -> Result<Authority, CaError> {
        let name = host.as_str().replace([':', '[', ']'], "_");
        let (pem_file, key_file) =
            (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        match (std::fs::read_to_string(&pem_file), std::fs::read_to_string(&key_file)) {
            (Ok(pem), Ok(key)) => {
                let key = KeyPair::from_pem(&key)
                    .map_err(|error| CaError::Damaged { file: key_file, reason: error.to_string() })?;
                Ok(Authority { pem, key })
            }
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => {
                Err(CaError::file(&pem_file, error))
            }
            (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                Err(CaError::file(&key_file, error))
            }
            _ => {
                let authority = Authority::make(host)?;
                std::fs::create_dir_all(&self.dir).map_err(|error| CaError::file(&self.dir, error))?;
                let key = authority.key.serialize_pem();
                write_atomic(&key_file, key.as_bytes(), Access::Private)
                    .map_err(|error| CaError::file(&key_file, error))?;
                write_atomic(&pem_file, authority.pem.as_bytes(), Access::Public)
                    .map_err(|error| CaError::file(&pem_file, error))?;
                tracing::info!(registry = %host, file = %pem_file.display(), "made a CA for a registry's clients");
                Ok(authority)
            }
        }
    }
}

impl Authority {
    fn make(host: &RegistryHost) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("Flotilla CA of this node for {host}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(constraints(host));
        validate_for(&mut params, CA_LIFE);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, key })
    }

    /// The certificate that clients see of the registry, with its key.
    fn leaf(&self, host: &RegistryHost) -> Result<(Certificate, KeyPair), CaError> {
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // No host's name: OpenSSL takes a common name for one where it can, and holds it against the
        // constraints (x509v3's `NAME_CONSTRAINTS_check_CN`); those of an address exclude every name.
        params.distinguished_name = name(&format!("{host} as this node plays it"));
        params.subject_alt_names = vec![match host.dialled().parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.dialled().try_into()?),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validate_for(&mut params, LEAF_LIFE);
        Ok((params.signed_by(&key, &issuer)?, key))
    }

    fn server(&self, host: &RegistryHost) -> Result<ServerConfig, CaError> {
        let (leaf, key) = self.leaf(host)?;
        let ca = CertificateDer::from_pem_slice(self.pem.as_bytes())
            .map_err(|error| CaError::Chain(error.to_string()))?;
        let key =
            PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| CaError::Chain(error.to_owned()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone(), ca], key)
            })
            .map_err(|error| CaError::Chain(error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn constraints(host: &RegistryHost) -> NameConstraints {
    match host.host().parse::<IpAddr>() {
        Ok(address) => NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::IpAddress(only(address))],
            excluded_subtrees: vec![GeneralSubtree::DnsName(String::new())],
        },
        Err(_) => NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(host.host().to_owned())],
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        },
    }
}

fn only(address: IpAddr) -> CidrSubnet {
    match address {
        IpAddr::V4(address) => CidrSubnet::V4(address.octets(), [255; 4]),
        IpAddr::V6(address) => CidrSubnet::V6(address.octets(), [255; 16]),
    }
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Flotilla");
    name.push(DnType::CommonName, common_name.chars().take(MAX_COMMON_NAME).collect::<String>());
    name
}

fn validate_for(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
}

/// X.520: ub-common-name.
const MAX_COMMON_NAME: usize = 64;

/// Clients' clocks may be behind.
const BACKDATED: Duration = Duration::from_secs(2 * 3600);

/// Longer than a node lives: clients were told to trust it.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86400);

/// Made anew at each start of the daemon.
const LEAF_LIFE: Duration = Duration::from_secs(397 * 86400);

/// Why a registry cannot be played.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error("{}: {error}", file.display())]
    File { file: PathBuf, error: io::Error },
    #[error("{} is damaged ({reason}); remove it, and tell the clients its successor", file.display())]
    Damaged { file: PathBuf, reason: String },
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("use a certificate: {0}")]
    Chain(String),
}

impl CaError {
    fn file(path: &Path, error: io::Error) -> Self {
        Self::File { file: path.to_owned(), error }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, RootCertStore};

    use super::*;

    fn host(name: &str) -> RegistryHost {
        name.parse().unwrap()
    }

    fn ca_pem(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join("ca").join(format!("{name}.pem"))).unwrap()
    }

    /// Whether a client that trusts what `pem` holds takes `leaf` for `name`.
    fn verify(pem: &str, leaf: &CertificateDer<'_>, name: &str) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(leaf, &[], &name, &[], UnixTime::now()).map(drop)
    }

    /// A leaf with these names, signed by whoever holds the registry's key.
    fn leaf(authority: &Authority, names: &[&str]) -> CertificateDer<'static> {
        let issuer = Issuer::from_ca_cert_pem(&authority.pem, &authority.key).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        validate_for(&mut params, LEAF_LIFE);
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
    }

    /// Clients with OpenSSL hold a certificate's common name against the constraints, where it may be a host's.
    #[test]
    fn openssl_takes_the_certificate_of_a_registry_by_name_and_by_address() {
        let openssl = |arguments: &[&str]| std::process::Command::new("openssl").args(arguments).output();
        if openssl(&["version"]).is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let authorities = Authorities::open(dir.path());
        for (name, check, checked) in [
            ("10.0.0.1:5000", "-verify_ip", "10.0.0.1"),
            ("[fd00::1]:5000", "-verify_ip", "fd00::1"),
            ("reg.test:5000", "-verify_hostname", "reg.test"),
            ("localhost", "-verify_hostname", "localhost"),
        ] {
            let registry = host(name);
            authorities.prepare([&registry]).unwrap();
            let (leaf, _) = authorities.authority(&registry).unwrap().leaf(&registry).unwrap();
            let file = dir.path().join("leaf.pem");
            std::fs::write(&file, leaf.pem()).unwrap();
            let bundle = dir.path().join("ca-bundle.pem");
            let (file, bundle) = (file.to_str().unwrap(), bundle.to_str().unwrap());
            let output =
                openssl(&["verify", "-x509_strict", "-CAfile", bundle, check, checked, file]).unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn an_authority_is_made_once_and_outlives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let registry = host("registry.test");
        Authorities::open(dir.path()).prepare([&registry]).unwrap();
        let before = ca_pem(dir.path(), "registry.test");
        let reopened = Authorities::open(dir.path());
        reopened.prepare([&registry]).unwrap();
        reopened.server(&registry).unwrap();
        assert_eq!(ca_pem(dir.path(), "registry.test"), before);
        let key = std::fs::metadata(dir.path().join("ca/registry.test.key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o077, 0, "the key is its owner's alone");
    }

    #[test]
    fn each_registry_has_its_own_authority_and_the_bundle_has_them_all() {
        let dir = tempfile::tempdir().unwrap();
        let authorities = Authorities::open(dir.path());
        let hosts = [host("one.test"), host("two.test:5000")];
        authorities.prepare(&hosts).unwrap();
        let bundle = std::fs::read_to_string(dir.path().join("ca-bundle.pem")).unwrap();
        let pems = ["one.test", "two.test_5000"].map(|name| ca_pem(dir.path(), name));
        assert_eq!(bundle, pems.concat());
        assert_ne!(pems[0], pems[1]);
        authorities.prepare(&hosts[1..]).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("ca-bundle.pem")).unwrap(), pems[1]);
    }

    #[test]
    fn an_authority_vouches_for_its_registry_and_for_nothing_else() {
        let authority = Authority::make(&host("registry.test:5000")).unwrap();
        verify(&authority.pem, &leaf(&authority, &["registry.test"]), "registry.test").unwrap();
        for name in ["other.test", "test", "notregistry.test", "10.0.0.1", "::1"] {
            refused(&authority, &[name], name);
        }
        // Nor does a name that it may vouch for let another pass.
        refused(&authority, &["registry.test", "other.test"], "other.test");
        refused(&authority, &["registry.test", "10.0.0.1"], "10.0.0.1");
    }

    #[test]
    fn an_authority_of_an_address_vouches_for_that_address_alone() {
        for (registry, address, other) in
            [("10.0.0.1:5000", "10.0.0.1", "10.0.0.2"), ("[fd00::1]:5000", "fd00::1", "fd00::2")]
        {
            let authority = Authority::make(&host(registry)).unwrap();
            verify(&authority.pem, &leaf(&authority, &[address]), address).unwrap();
            refused(&authority, &[other], other);
            refused(&authority, &["registry.test"], "registry.test");
        }
    }

    #[test]
    fn docker_hub_is_played_under_the_name_that_clients_dial() {
        let dir = tempfile::tempdir().unwrap();
        let authorities = Authorities::open(dir.path());
        let hub = host("docker.io");
        authorities.prepare([&hub]).unwrap();
        let pem = ca_pem(dir.path(), "docker.io");
        let leaf = leaf(&authorities.authority(&hub).unwrap(), &["registry-1.docker.io"]);
        verify(&pem, &leaf, "registry-1.docker.io").unwrap();
        assert!(Arc::ptr_eq(
            &authorities.server(&host("registry-1.docker.io")).unwrap(),
            &authorities.server(&host("index.docker.io")).unwrap()
        ));
    }

    fn refused(authority: &Authority, names: &[&str], name: &str) {
        let error = verify(&authority.pem, &leaf(authority, names), name).unwrap_err();
        let by_constraint = matches!(&error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("NameConstraintViolation"));
        assert!(by_constraint, "{name}: {error:?}");
    }

    #[test]
    fn a_damaged_authority_is_named_and_takes_no_other_away() {
        let dir = tempfile::tempdir().unwrap();
        let authorities = Authorities::open(dir.path());
        let (good, bad) = (host("good.test"), host("bad.test"));
        authorities.prepare([&good, &bad]).unwrap();
        std::fs::write(dir.path().join("ca/bad.test.key"), "no key").unwrap();
        let error = authorities.prepare([&bad, &good]).unwrap_err().to_string();
        assert!(error.contains("bad.test.key is damaged"), "{error}");
        let bundle = std::fs::read_to_string(dir.path().join("ca-bundle.pem")).unwrap();
        assert_eq!(bundle, ca_pem(dir.path(), "good.test"));
    }
}
