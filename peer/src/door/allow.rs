//! Who may use this node's proxy door for what: where a blind tunnel may lead, and who may ask.
//!
//! A tunnel ends wherever its client says, with this node's address. On loopback that is no more
//! than the client has by itself; for anyone else it would be a way into the network.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_daemon::config::HostPattern;
use flotilla_proto::Authorization;
use http::HeaderValue;
use http::uri::Authority;

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
            Self::Only(list) => {
                let port = authority.port_u16().unwrap_or(443);
                list.iter().any(|pattern| pattern.matches(authority.host(), port))
            }
        }
    }
}

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
}
