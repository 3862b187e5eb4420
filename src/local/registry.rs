//! `--registry HOST=URL[,KEY=VALUE]…`, parsed and then loaded. The keys are an endpoint's and a
//! registry's, as `flotilla registry set` has them, and those of an account.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use flotilla_daemon::settings::{self, EndpointUrl};
use flotilla_manager::cli::{EndpointSpec, Key, KeyError, RegistryOptions};
use flotilla_proto::{ParseNameError, RegistryHost};
use serde::Serialize;

/// A registry as the command line names it; its files are not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistryArgument {
    /// The host that image names carry.
    pub(crate) host: RegistryHost,
    endpoint: EndpointSpec,
    options: RegistryOptions,
    account: Option<Account>,
}

/// Whom a registry knows: a robot account, or a person's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    /// The user's name.
    pub(crate) user: String,
    /// The file that holds the password.
    pub(crate) password_file: PathBuf,
}

/// One registry, ready to be given to a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// As the manager is to know it; it has one endpoint.
    pub(crate) settings: settings::Upstream,
    /// Who reads there.
    pub(crate) account: Option<Account>,
}

impl RegistryArgument {
    /// The registry that image names alone point to: `https://HOST`, anonymous.
    ///
    /// # Errors
    ///
    /// If the host does not stand in a URL.
    pub(crate) fn public(host: RegistryHost) -> Result<Self, ParseRegistryError> {
        let endpoint = EndpointSpec::new(parse_url(&format!("https://{host}"))?);
        Ok(Self { host, endpoint, options: RegistryOptions::default(), account: None })
    }

    /// Reads the CA file, and makes the password file's path hold in any directory.
    pub(crate) fn load(&self) -> anyhow::Result<Upstream> {
        let upstream = settings::Upstream::new(self.host.clone(), vec![self.endpoint.load()?])?;
        let account = self.account.as_ref().map(Account::located).transpose()?;
        Ok(Upstream { settings: self.options.apply(upstream)?, account })
    }
}

impl Account {
    fn located(&self) -> anyhow::Result<Self> {
        let password_file = self
            .password_file
            .canonicalize()
            .with_context(|| format!("find password file {}", self.password_file.display()))?;
        Ok(Self { user: self.user.clone(), password_file })
    }

    /// The password: the file's text without the line's end.
    pub(crate) fn password(&self) -> anyhow::Result<String> {
        let text = fs::read_to_string(&self.password_file)
            .with_context(|| format!("read password file {}", self.password_file.display()))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl FromStr for RegistryArgument {
    type Err = ParseRegistryError;

    fn from_str(text: &str) -> Result<Self, ParseRegistryError> {
        let (host, rest) = text.split_once('=').ok_or(ParseRegistryError::Form)?;
        let host = host.parse()?;
        let mut parts = rest.split(',');
        let mut endpoint = EndpointSpec::new(parse_url(parts.next().unwrap_or_default())?);
        let mut options = RegistryOptions::default();
        let mut account = AccountKeys::default();
        for key in parts.map(Key::of) {
            if !account.take(key)? && !endpoint.take(key)? && !options.take(key)? {
                return Err(unknown(key).into());
            }
        }
        Ok(Self { host, endpoint, options, account: account.both()? })
    }
}

/// An account, half of which may be said yet.
#[derive(Default)]
struct AccountKeys {
    user: Option<String>,
    password_file: Option<PathBuf>,
}

impl AccountKeys {
    const KEYS: [&'static str; 2] = ["user", "password-file"];

    /// Takes a key; whether it is one of an account's.
    fn take(&mut self, key: Key<'_>) -> Result<bool, KeyError> {
        match key.name() {
            "user" => key.set(&mut self.user)?,
            "password-file" => key.set(&mut self.password_file)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn both(self) -> Result<Option<Account>, ParseRegistryError> {
        match (self.user, self.password_file) {
            (Some(user), Some(password_file)) => Ok(Some(Account { user, password_file })),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(ParseRegistryError::HalfAnAccount),
        }
    }
}

fn unknown(key: Key<'_>) -> KeyError {
    let known = [&AccountKeys::KEYS[..], &EndpointSpec::KEYS, &RegistryOptions::KEYS].concat();
    key.unknown(&known)
}

fn parse_url(text: &str) -> Result<EndpointUrl, ParseRegistryError> {
    // Before anything else, for what does not parse is shown.
    if text.contains('@') {
        return Err(ParseRegistryError::PasswordInUrl);
    }
    Ok(text.parse()?)
}

/// Why a text is no registry argument.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParseRegistryError {
    /// No `=`.
    #[error("a registry reads HOST=URL, and behind it KEY=VALUE between commas")]
    Form,
    /// The host.
    #[error(transparent)]
    Host(#[from] ParseNameError),
    /// The URL.
    #[error(transparent)]
    Url(#[from] settings::ParseRegistryError),
    /// Credentials would show in process lists.
    #[error("a registry's URL holds no credentials: use user=U,password-file=F")]
    PasswordInUrl,
    /// One of the keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// One of the two.
    #[error("a registry's account needs both user=U and password-file=F")]
    HalfAnAccount,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_a_host_an_address_and_options() {
        let directory = tempfile::tempdir().unwrap();
        let [ca, password_file] = ["ca.pem", "password"].map(|name| directory.path().join(name));
        fs::write(&ca, "PEM").unwrap();
        fs::write(&password_file, "secret").unwrap();
        let text = format!(
            "Reg.test=https://10.0.0.1:5000/,ca={},user=robot$ci,password-file={},weight=3,limit=50MB,proxy-cache",
            ca.display(),
            password_file.display()
        );
        let upstream = text.parse::<RegistryArgument>().unwrap().load().unwrap();
        let settings::Upstream { host, endpoints, proxy_cache, .. } = upstream.settings;
        assert_eq!((host.as_str(), proxy_cache), ("reg.test", true));
        let expected = settings::Endpoint {
            ca_pem: Some("PEM".into()),
            weight: 3_u32.try_into().unwrap(),
            caps: vec!["50 MB".parse().unwrap()],
            ..settings::Endpoint::new("https://10.0.0.1:5000".parse().unwrap())
        };
        assert_eq!(endpoints, [expected]);
        let password_file = password_file.canonicalize().unwrap();
        assert_eq!(upstream.account, Some(Account { user: "robot$ci".into(), password_file }));
    }

    #[test]
    fn what_is_no_registry_says_why() {
        let error = |text: &str| text.parse::<RegistryArgument>().unwrap_err().to_string();
        assert!(error("reg.test").starts_with("a registry reads HOST=URL"));
        assert_eq!(error("a/b=http://x"), ParseNameError::Registry.to_string());
        for url in ["", "ftp://x", "x:5000", "http://x/path", "http://x?q"] {
            assert!(
                error(&format!("reg.test={url}")).starts_with(&format!("endpoint `{url}`: a URL here reads"))
            );
        }
        for url in ["http://u:s3cret@x", "u:s3cret@x"] {
            let error = error(&format!("reg.test={url}"));
            assert!(error.contains("user=U,password-file=F") && !error.contains("s3cret"), "{error}");
        }
        assert_eq!(
            error("reg.test=http://x,certificate=f"),
            "unknown key `certificate`; the keys here are user, password-file, ca, address, weight, standby, \
            proxy, limit, release, proxy-cache, count-pulls, offline, offline-for, grants, trust"
        );
        assert!(error("reg.test=http://x,users=u").contains("did you mean `user`?"));
        assert!(error("reg.test=http://x,user=u").contains("needs both"));
    }

    #[test]
    fn the_only_endpoint_is_no_standby() {
        let registry: RegistryArgument = "reg.test=http://x,standby".parse().unwrap();
        let error = registry.load().unwrap_err().to_string();
        assert_eq!(error, "a registry needs at least one endpoint that is no standby");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let registry: RegistryArgument = "reg.test=http://x,ca=/no/such/ca.pem".parse().unwrap();
        assert!(format!("{:#}", registry.load().unwrap_err()).contains("/no/such/ca.pem"));
    }

    #[test]
    fn a_password_ends_before_the_line_does() {
        let directory = tempfile::tempdir().unwrap();
        let password_file = directory.path().join("password");
        fs::write(&password_file, "se cret\r\n").unwrap();
        let account = Account { user: "u".into(), password_file };
        assert_eq!(account.password().unwrap(), "se cret");
    }
}
