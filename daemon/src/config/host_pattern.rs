//! Hosts as an operator lists them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
    /// Whether it means this host, as a URL has it, at this port.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
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
            (Some((address, "")), _) => (address, None),
            (Some((address, rest)), _) => (address, Some(rest.strip_prefix(':').ok_or_else(refused)?)),
            (None, Some((host, port))) if !host.contains(':') => (host, Some(port)),
            _ => (&lower[..], None),
        };
        if bracketed.is_some() && host.parse::<Ipv6Addr>().is_err() {
            return Err(refused());
        }
        // As an address is compared, and as a name is resolved.
        let host = match host.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) if host.starts_with('*') => host.to_owned(),
            Err(_) => host.strip_suffix('.').unwrap_or(host).to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_that_names_no_host_is_refused_by_name() {
        for text in [
            "",
            ".",
            "*x.test",
            "a b",
            "a.test:port",
            "http://a.test",
            "*.",
            "[fd00::7]443",
            "[fd00::7]x",
            "[a.test]",
            "[fd00::7",
            "[10.0.0.7]",
        ] {
            let error = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        for text in ["[fd00::7]:443", "[FD00:0:0::7]:443", "[fd00:0000::0007]:443"] {
            let pattern: HostPattern = text.parse().unwrap();
            assert!(pattern.matches("[fd00::7]", 443) && pattern.matches("fd00::7", 443), "{text}");
            assert!(!pattern.matches("fd00::7", 80) && !pattern.matches("fd00::8", 443), "{text}");
        }
        let dotted: HostPattern = "example.com.".parse().unwrap();
        assert!(dotted.matches("example.com", 80) && dotted.matches("example.com.", 80));
    }

    proptest! {
        #[test]
        fn a_pattern_reads_back_as_it_prints(text in "(\\*|\\[fd00::[1-9a-f]{1,4}\\]|(\\*\\.)?[a-z]{1,5}(\\.[a-z]{1,5}){0,2})(:[1-9][0-9]{0,3})?") {
            let pattern: HostPattern = text.parse().unwrap();
            prop_assert_eq!(pattern.to_string().parse::<HostPattern>().unwrap(), pattern);
        }
    }
}
