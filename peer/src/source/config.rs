//! Settings of the registry client.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_proto::{Authorization, RegistryHost};
use serde::{Deserialize, Serialize};

use super::{ClientCertificate, Destination};

/// How this seed reads from registries. Holds no secret: passwords stay in their files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// The seed's own account per registry, tried when every client's credential was refused.
    pub robots: BTreeMap<RegistryHost, Robot>,
    /// What is shown to a registry that asks its readers for a certificate; read again now and then.
    pub client_certificates: BTreeMap<RegistryHost, ClientCertificate>,
    /// Where registries may lead this seed by redirects and token services although they might not otherwise: to
    /// networks (`10.1.0.0/16`) and hosts (`storage.internal`, `*.internal:9000`) that are nearer than the registry
    /// itself is, and, with `http://` in front, from https to http.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub may_lead_to: Vec<Destination>,
    /// How long a connection may take to stand, TLS included.
    #[serde(with = "flotilla_daemon::config::duration")]
    pub connect_timeout: Duration,
    /// How long a registry may take to answer a read with a header: redirects and tokens included.
    #[serde(with = "flotilla_daemon::config::duration")]
    pub header_timeout: Duration,
    /// How long a blob's body may give no byte before the read is resumed elsewhere.
    #[serde(with = "flotilla_daemon::config::duration")]
    pub stall_timeout: Duration,
    /// How long a blob that has begun to come may give no byte, whatever was tried, before its read fails:
    /// a registry that restarts within this time costs its clients a wait.
    #[serde(with = "flotilla_daemon::config::duration")]
    pub give_up_after: Duration,
    /// How often each endpoint is asked whether it is well.
    #[serde(with = "flotilla_daemon::config::duration")]
    pub probe_interval: Duration,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            robots: BTreeMap::new(),
            client_certificates: BTreeMap::new(),
            may_lead_to: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(8),
            stall_timeout: Duration::from_secs(5),
            give_up_after: Duration::from_secs(30),
            probe_interval: Duration::from_secs(10),
        }
    }
}

/// An account of the seed itself at one registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Robot {
    /// The account's name.
    pub user: String,
    /// Holds the password alone; read at each use, so that it can be changed in place.
    pub password_file: PathBuf,
}

impl Robot {
    /// The account as an `Authorization: Basic` header.
    ///
    /// # Errors
    /// If the password file cannot be read.
    pub(super) async fn authorization(&self) -> std::io::Result<Authorization> {
        let password = tokio::fs::read_to_string(&self.password_file).await?;
        let password = password.trim_end_matches(['\r', '\n']);
        let pair = STANDARD.encode(format!("{}:{password}", self.user));
        Ok(Authorization::new(format!("Basic {pair}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_may_be_empty_and_names_an_unknown_key() {
        let config: SourceConfig = toml::from_str("").unwrap();
        assert_eq!(config.header_timeout, Duration::from_secs(8));
        let refused = toml::from_str::<SourceConfig>("skip_tls = true").unwrap_err();
        assert!(refused.to_string().contains("skip_tls"), "{refused}");
    }

    #[test]
    fn a_robot_is_named_by_its_registry_and_a_password_file() {
        let text = r#"
            stall_timeout = "2s"
            [robots."reg.test:5000"]
            user = "robot$seed"
            password_file = "/run/secrets/robot"
        "#;
        let config: SourceConfig = toml::from_str(text).unwrap();
        assert_eq!(config.stall_timeout, Duration::from_secs(2));
        assert_eq!(config.robots[&"reg.test:5000".parse().unwrap()].user, "robot$seed");
    }

    #[test]
    fn an_operator_lists_where_registries_may_lead_and_a_slip_is_named() {
        let text = r#"may_lead_to = ["10.1.0.0/16", "storage.internal:9000", "http://old.internal"]"#;
        let config: SourceConfig = toml::from_str(text).unwrap();
        assert!(toml::to_string(&config).unwrap().lines().any(|line| line == text));
        let slip = toml::from_str::<SourceConfig>(r#"may_lead_to = ["10.1.0.0/64"]"#).unwrap_err();
        assert!(
            slip.to_string().contains("may_lead_to") && slip.to_string().contains("is no network"),
            "{slip}"
        );
    }

    #[tokio::test]
    async fn a_password_files_last_newline_is_not_part_of_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, "s3cret\n").unwrap();
        let robot = Robot { user: "u".into(), password_file };
        let authorization = robot.authorization().await.unwrap();
        assert_eq!(authorization.expose(), "Basic dTpzM2NyZXQ=");
    }
}
