//! The manager's address, as a join token carries it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use flotilla_proto::PeerId;
use http::uri::Authority;
use serde::{Deserialize, Serialize};

use crate::authority::host_and_port;

/// `https://host:port`; the port 4000 where none is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ManagerUrl {
    /// `host:port`, to dial.
    address: String,
}

impl ManagerUrl {
    /// `host:port`, to dial.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether this names the machine that asks.
    pub fn is_loopback(&self) -> bool {
        let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// The name that the manager's own certificate carries, and that dialling it verifies.
pub fn manager_id() -> PeerId {
    "manager".parse().expect("`manager` is a DNS label")
}

impl FromStr for ManagerUrl {
    type Err = ParseManagerUrlError;

    fn from_str(text: &str) -> Result<Self, ParseManagerUrlError> {
        let refused = || ParseManagerUrlError { text: text.to_owned() };
        let rest = text.trim().strip_prefix("https://").ok_or_else(refused)?;
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| refused())?;
        let (host, port) = host_and_port(&authority).ok_or_else(refused)?;
        Ok(Self { address: format!("{host}:{}", port.unwrap_or(DEFAULT_PORT)) })
    }
}

impl TryFrom<String> for ManagerUrl {
    type Error = ParseManagerUrlError;

    /// As a configuration has it: `host:port` will do.
    fn try_from(text: String) -> Result<Self, ParseManagerUrlError> {
        let url = if text.contains("://") { text.clone() } else { format!("https://{text}") };
        url.parse().map_err(|_| ParseManagerUrlError { text })
    }
}

impl From<ManagerUrl> for String {
    fn from(url: ManagerUrl) -> Self {
        url.address
    }
}

impl fmt::Display for ManagerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.address)
    }
}

const DEFAULT_PORT: u16 = 4000;

/// Why a text is no manager's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no manager's URL; it reads https://host:port, as in https://manager.example.com:4000")]
pub struct ParseManagerUrlError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_https_with_an_optional_port() {
        for (text, address) in [
            ("https://10.0.0.1:4000", "10.0.0.1:4000"),
            ("https://manager.example.com/", "manager.example.com:4000"),
            ("https://[::1]:4100", "[::1]:4100"),
        ] {
            assert_eq!(text.parse::<ManagerUrl>().unwrap().address(), address);
        }
        for text in
            ["", "http://a:1", "https://", "https://a:99999", "https://a/b", "https://u@a", "https://a:"]
        {
            assert!(text.parse::<ManagerUrl>().is_err(), "{text}");
        }
    }
}
