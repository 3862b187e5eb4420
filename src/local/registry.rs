//! `--registry HOST=URL[,ca=FILE][,user=U,password-file=F]`, parsed and then loaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use flotilla_proto::{ParseNameError, RegistryHost};
use hyper::Uri;
use serde::Serialize;

/// A registry as the command line names it; its files are not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistryArgument {
    /// The host that image names carry.
    pub(crate) host: RegistryHost,
    url: String,
    ca: Option<PathBuf>,
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
    /// The host that image names carry.
    pub(crate) host: RegistryHost,
    /// Where it is reached: `http(s)://host[:port]`.
    pub(crate) url: String,
    /// Certificates that its own must chain to, beside the system's.
    pub(crate) ca_pem: Option<String>,
    /// Who reads there.
    pub(crate) account: Option<Account>,
}

impl RegistryArgument {
    /// The registry that image names alone point to: `https://HOST`, anonymous.
    pub(crate) fn public(host: RegistryHost) -> Self {
        let url = format!("https://{host}");
        Self { host, url, ca: None, account: None }
    }

    /// Reads the CA file, and makes the password file's path hold in any directory.
    pub(crate) fn load(&self) -> anyhow::Result<Upstream> {
        let ca_pem = self.ca.as_deref().map(read_ca).transpose()?;
        let account = self.account.as_ref().map(Account::located).transpose()?;
        Ok(Upstream { host: self.host.clone(), url: self.url.clone(), ca_pem, account })
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

fn read_ca(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read CA file {}", path.display()))
}

impl FromStr for RegistryArgument {
    type Err = ParseRegistryError;

    fn from_str(text: &str) -> Result<Self, ParseRegistryError> {
        let (host, rest) = text.split_once('=').ok_or(ParseRegistryError::Form)?;
        let host = host.parse()?;
        let mut parts = rest.split(',');
        let url = parse_url(parts.next().unwrap_or_default())?;
        let (mut ca, mut user, mut password_file) = (None, None, None);
        for part in parts {
            match part.split_once('=') {
                Some(("ca", file)) => ca = Some(file.into()),
                Some(("user", name)) => user = Some(name.to_owned()),
                Some(("password-file", file)) => password_file = Some(file.into()),
                _ => return Err(ParseRegistryError::Option(part.to_owned())),
            }
        }
        let account = match (user, password_file) {
            (Some(user), Some(password_file)) => Some(Account { user, password_file }),
            (None, None) => None,
            _ => return Err(ParseRegistryError::HalfAnAccount),
        };
        Ok(Self { host, url, ca, account })
    }
}

/// `http(s)://host[:port]` and nothing behind: the `/v2/` of every request is absolute.
fn parse_url(text: &str) -> Result<String, ParseRegistryError> {
    let malformed = || ParseRegistryError::Url(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| malformed())?;
    let authority = uri.authority().ok_or_else(malformed)?;
    let scheme =
        uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or_else(malformed)?;
    if authority.as_str().contains('@') {
        return Err(ParseRegistryError::PasswordInUrl);
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(malformed());
    }
    Ok(format!("{scheme}://{authority}"))
}

/// Why a text is no registry argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseRegistryError {
    /// No `=`.
    #[error("a registry reads HOST=URL[,ca=FILE][,user=U,password-file=F]")]
    Form,
    /// The host.
    #[error(transparent)]
    Host(#[from] ParseNameError),
    /// The URL.
    #[error("`{0}` is no registry's URL: it reads https://host[:port] or http://host[:port], without a path")]
    Url(String),
    /// Credentials would show in process lists.
    #[error("a registry's URL holds no credentials: use user=U,password-file=F")]
    PasswordInUrl,
    /// A name that none of the options has.
    #[error("`{0}` is no option of a registry: there are ca=FILE, user=U and password-file=F")]
    Option(String),
    /// One of the two.
    #[error("a registry's account needs both user=U and password-file=F")]
    HalfAnAccount,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_a_host_an_address_and_options() {
        let text = "Reg.test=https://10.0.0.1:5000/,ca=/ca.pem,user=robot$ci,password-file=/secret";
        let registry: RegistryArgument = text.parse().unwrap();
        assert_eq!(registry.host.as_str(), "reg.test");
        assert_eq!(registry.url, "https://10.0.0.1:5000");
        assert_eq!(registry.ca, Some("/ca.pem".into()));
        let account = Account { user: "robot$ci".into(), password_file: "/secret".into() };
        assert_eq!(registry.account, Some(account));
    }

    #[test]
    fn what_is_no_registry_says_why() {
        let parse = |text: &str| text.parse::<RegistryArgument>().unwrap_err();
        assert_eq!(parse("reg.test"), ParseRegistryError::Form);
        assert_eq!(parse("a/b=http://x"), ParseRegistryError::Host(ParseNameError::Registry));
        for url in ["", "ftp://x", "x:5000", "http://x/path", "http://x?q"] {
            assert_eq!(parse(&format!("reg.test={url}")), ParseRegistryError::Url(url.into()));
        }
        assert_eq!(parse("reg.test=http://u:p@x"), ParseRegistryError::PasswordInUrl);
        assert_eq!(parse("reg.test=http://x,cert=f"), ParseRegistryError::Option("cert=f".into()));
        assert_eq!(parse("reg.test=http://x,user=u"), ParseRegistryError::HalfAnAccount);
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
