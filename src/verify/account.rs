//! Whom the registry knows: named, or found in an `auth.json`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flotilla_proto::RegistryHost;
use serde::Deserialize;

use crate::client::key_of;
use crate::oci_client::ClientCredentials;

/// The account of a pull; anonymous without any.
#[derive(Debug, Default, clap::Args)]
pub(super) struct AccountArgs {
    /// The registry's user; the password comes on the standard input
    #[arg(long, value_name = "USER", requires = "password_stdin", conflicts_with = "authfile")]
    user: Option<String>,

    /// Read the password from the standard input
    #[arg(long, requires = "user")]
    password_stdin: bool,

    /// Take the account from this auth.json or docker's config.json
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl AccountArgs {
    /// Reads the password or the file.
    pub(super) fn credentials(&self, registry: &RegistryHost) -> anyhow::Result<Option<ClientCredentials>> {
        match (&self.user, &self.authfile) {
            (Some(user), _) => Ok(Some(ClientCredentials::new(user, &password()?))),
            (None, Some(file)) => from_file(file, registry).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn password() -> anyhow::Result<String> {
    let mut text = String::new();
    let limited = &mut std::io::stdin().take(MAX_PASSWORD_LEN);
    limited.read_to_string(&mut text).context("read the password from the standard input")?;
    let password = text.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "the standard input holds no password");
    Ok(password.to_owned())
}

fn from_file(file: &Path, registry: &RegistryHost) -> anyhow::Result<ClientCredentials> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    credentials_in(&text, registry)
        .with_context(|| format!("find an account for {registry} in {}", file.display()))
}

/// `auths.<registry>.auth` is `user:password` in base64.
fn credentials_in(text: &str, registry: &RegistryHost) -> anyhow::Result<ClientCredentials> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        auths: BTreeMap<String, Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        auth: Option<String>,
    }
    let File { auths } = serde_json::from_str(text).context("read its JSON")?;
    let key = key_of(auths.keys().map(String::as_str), registry);
    let entry = key.and_then(|key| auths.get(key));
    let auth = entry.and_then(|entry| entry.auth.as_deref());
    let auth =
        auth.context("it has none; a credential helper's is not read: use --user and --password-stdin")?;
    let decoded = BASE64.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.context("its `auth` is no base64 text")?;
    let (user, password) = decoded.split_once(':').context("its `auth` is no user and password")?;
    Ok(ClientCredentials::new(user, password))
}

/// Tokens that stand for passwords have some KiB.
const MAX_PASSWORD_LEN: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_under_its_registry() {
        let registry: RegistryHost = "reg.test:5000".parse().unwrap();
        let find = |text: &str| credentials_in(text, &registry);
        assert!(find(r#"{"auths": {"reg.test:5000": {"auth": "dTpw"}}, "credsStore": "x"}"#).is_ok());
        let hub: RegistryHost = "docker.io".parse().unwrap();
        let by_docker = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}}"#;
        assert!(credentials_in(by_docker, &hub).is_ok());
        for (text, reason) in [
            ("[", "read its JSON"),
            ("{}", "it has none"),
            (r#"{"auths": {"reg.test:5000": {}}}"#, "it has none"),
            (r#"{"auths": {"reg.test:5000": {"auth": "%"}}}"#, "no base64"),
            (r#"{"auths": {"reg.test:5000": {"auth": "dQ=="}}}"#, "no user and password"),
        ] {
            let error = find(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
