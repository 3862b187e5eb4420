//! Who may use this node's proxy door for what: where a blind tunnel may lead, and who may ask.
//!
//! A tunnel ends wherever its client says, with this node's address. On loopback that is no more
//! than the client has by itself; for anyone else it would be a way into the network.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_proto::Authorization;
use http::HeaderValue;
use http::uri::Authority;
use serde::{Deserialize, Serialize};

/// Where tunnels may lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tunnels {
    /// Anywhere.
    Any,
    /// To these hosts.
    Only(Vec<HostPattern>),
}

impl Tunnels {
    /// As configured; without a list anywhere on loopback, and nowhere from elsewhere.
    pub(crate) fn new(listen: SocketAddr, list: Option<Vec<HostPattern>>) -> Self {
        match list {
            Some(list) => Self::Only(list),
            None if listen.ip().is_loopback() => Self::Any,
            None => Self::Only(Vec::new()),
        }
    }

    /// Whether a tunnel may lead there.
    pub(super) fn lead_to(&self, authority: &Authority) -> bool {
        match self {
            Self::Any => true,
            Self::Only(list) => list.iter().any(|pattern| pattern.matches(authority)),
        }
    }
}

/// `host`, `*.example.com` for every name below, or `*`; with `:port`, that port only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// With its leading dot.
    Below(String),
    Name(String),
}

impl HostPattern {
    fn matches(&self, authority: &Authority) -> bool {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(443);
        let fits = match &self.host {
            Host::Any => true,
            // An address is below no name.
            Host::Below(suffix) => host.ends_with(suffix.as_str()) && host.parse::<IpAddr>().is_err(),
            Host::Name(name) => host == *name,
        };
        fits && self.port.is_none_or(|only| only == port)
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let refused = || HostPatternError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let bracketed = lower.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match (bracketed, lower.rsplit_once(':')) {
            (Some((address, rest)), _) => (address.to_owned(), rest.strip_prefix(':')),
            (None, Some((host, port))) if !host.contains(':') => (host.to_owned(), Some(port)),
            _ => (lower.clone(), None),
        };
        let port = port.map(|port| port.parse().map_err(|_| refused())).transpose()?;
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        let host = match host.strip_prefix('*') {
            Some("") => Host::Any,
            Some(suffix) if suffix.starts_with('.') && is_name(&suffix[1..]) => {
                Host::Below(suffix.to_owned())
            }
            Some(_) => return Err(refused()),
            None if is_name(&host) || host.parse::<IpAddr>().is_ok() => Host::Name(host),
            None => return Err(refused()),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Below(suffix) => write!(f, "*{suffix}")?,
            Host::Name(name) if name.contains(':') => write!(f, "[{name}]")?,
            Host::Name(name) => f.write_str(name)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(text: String) -> Result<Self, HostPatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

/// A text that names no hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host; write example.com, *.example.com, 10.0.0.7 or *, and :443 behind it for one port")]
pub struct HostPatternError(String);

/// Whether `Proxy-Authorization` names one of the users in `file`: lines of `user:password`.
/// Read at each use, so that it can be changed in place.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) async fn is_user(file: &Path, header: Option<&HeaderValue>) -> std::io::Result<bool> {
    let users = tokio::fs::read_to_string(file).await?;
    let presented = header
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, pair)| STANDARD.decode(pair.trim()).ok());
    let Some(presented) = presented else { return Ok(false) };
    // Hashes are compared, and all of them: the answer's time says nothing of a password.
    let presented = Authorization::new(presented).hash();
    let users = users.lines().map(|line| line.trim_end_matches('\r')).filter(|line| line.contains(':'));
    let hashes = users.map(|user| Authorization::new(user.to_owned()).hash());
    Ok(hashes.fold(false, |known, user| known | (user == presented)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn only(patterns: &[&str]) -> Tunnels {
        Tunnels::Only(patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
    }

    fn leads(tunnels: &Tunnels, authority: &str) -> bool {
        tunnels.lead_to(&authority.parse().unwrap())
    }

    #[test]
    fn a_list_lets_through_what_it_names_and_nothing_else() {
        let tunnels = only(&["s3.test", "*.cdn.test:443", "[fd00::1]:8443", "10.0.0.7"]);
        for there in ["s3.test:443", "S3.test:80", "a.b.cdn.test:443", "[fd00::1]:8443", "10.0.0.7:22"] {
            assert!(leads(&tunnels, there), "{there}");
        }
        for elsewhere in ["cdn.test:443", "a.cdn.test:80", "evils3.test:443", "[fd00::1]:443", "10.0.0.8:443"]
        {
            assert!(!leads(&tunnels, elsewhere), "{elsewhere}");
        }
        assert!(leads(&only(&["*:443"]), "any.test:443") && !leads(&only(&["*:443"]), "any.test:22"));
    }

    #[test]
    fn without_a_list_only_clients_of_this_node_may_go_anywhere() {
        let tunnels = |listen: &str| Tunnels::new(listen.parse().unwrap(), None);
        assert!(leads(&tunnels("127.0.0.1:4001"), "any.test:443"));
        assert!(leads(&tunnels("[::1]:4001"), "any.test:443"));
        assert!(!leads(&tunnels("0.0.0.0:4001"), "any.test:443"));
    }

    #[test]
    fn a_text_that_names_no_host_is_refused_by_name() {
        for text in ["", "*x.test", "a b", "a.test:port", "http://a.test", "*."] {
            let error = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn only_a_listed_user_with_the_right_password_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        std::fs::write(&file, "# people\nalice:s3:cret\r\nbob:x\n").unwrap();
        let header = |pair: &str| format!("Basic {}", STANDARD.encode(pair)).parse::<HeaderValue>().unwrap();
        for (pair, is_known) in [
            ("alice:s3:cret", true),
            ("bob:x", true),
            ("alice:x", false),
            ("alice:", false),
            ("# people", false),
            ("", false),
        ] {
            assert_eq!(is_user(&file, Some(&header(pair))).await.unwrap(), is_known, "{pair}");
        }
        assert!(!is_user(&file, None).await.unwrap());
        assert!(!is_user(&file, Some(&"Bearer x".parse().unwrap())).await.unwrap());
        assert!(is_user(&dir.path().join("missing"), None).await.is_err());
    }

    proptest! {
        #[test]
        fn a_pattern_reads_back_as_it_prints(text in "(\\*|(\\*\\.)?[a-z]{1,5}(\\.[a-z]{1,5}){0,2})(:[1-9][0-9]{0,3})?") {
            let pattern: HostPattern = text.parse().unwrap();
            prop_assert_eq!(pattern.to_string().parse::<HostPattern>().unwrap(), pattern);
        }
    }
}
