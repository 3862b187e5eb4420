//! Whether a request over plain HTTP is meant for this daemon by the one who sent it.
//!
//! A browser asks whatever a page tells it to ask, loopback too, and what a page's name resolves to is for its owner
//! to say (DNS rebinding). What the page cannot choose is `Host`, which has that name, and `Origin`. So a daemon
//! answers to what no stranger can own: its addresses, `localhost`, the machine's name, and what an operator lists.
//! Who sends no `Host` at all is no browser.

use std::net::IpAddr;

use http::header::{HOST, HeaderMap, ORIGIN};
use http::uri::Authority;
use http::{HeaderName, Uri};

use crate::config::HostPattern;

/// What a daemon is called.
#[derive(Debug, Clone)]
pub struct OwnNames {
    machine: String,
    listed: Vec<HostPattern>,
    /// Of the configuration: where the list is.
    key: &'static str,
}

impl OwnNames {
    /// Those of this machine and these, which `key` of the configuration lists.
    pub fn new(key: &'static str, listed: &[HostPattern]) -> Self {
        let machine = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        Self { machine, listed: listed.to_vec(), key }
    }

    /// Whether a request names this daemon, and comes from no other site's page.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), NotMeant> {
        let named = self.named(uri, headers)?;
        if let Some(host) = named.as_ref().filter(|host| !self.is_own(host)) {
            return Err(NotMeant::Host { host: host.to_string(), key: self.key });
        }
        self.check_origin(uri, headers)
    }

    /// Whether a request, whatever it names, comes from no other site's page.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn check_origin(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), NotMeant> {
        let Some(origin) = single(headers, &ORIGIN).map_err(|origin| self.foreign(origin))? else {
            return Ok(());
        };
        let parsed: Option<Uri> = origin.parse().ok();
        let site = parsed.as_ref().and_then(|uri| Some((uri.authority()?, default_port(uri)?)));
        let Some((site, default)) = site else { return Err(self.foreign(origin)) };
        let named = self.named(uri, headers)?;
        let is_same = named.is_some_and(|named| place(&named, default) == place(site, default));
        if is_same || self.is_listed(site, default) { Ok(()) } else { Err(self.foreign(origin)) }
    }

    /// What a request names: the target itself where it is absolute (RFC 9112 §3.2.2).
    fn named(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, NotMeant> {
        if let Some(authority) = uri.authority() {
            return Ok(Some(authority.clone()));
        }
        let unnamed = |host: &str| NotMeant::Host { host: host.to_owned(), key: self.key };
        match single(headers, &HOST).map_err(unnamed)? {
            None | Some("") => Ok(None),
            Some(host) => host.parse().map(Some).map_err(|_| unnamed(host)),
        }
    }

    fn is_own(&self, host: &Authority) -> bool {
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        let label = self.machine.split('.').next().unwrap_or_default();
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let is_machine = !name.is_empty() && (name == self.machine || name == label);
        is_address || name == "localhost" || is_machine || self.is_listed(host, HTTP)
    }

    fn is_listed(&self, host: &Authority, default_port: u16) -> bool {
        let (name, port) = place(host, default_port);
        self.listed.iter().any(|pattern| pattern.matches(&name, port))
    }

    fn foreign(&self, origin: &str) -> NotMeant {
        NotMeant::Origin { origin: origin.to_owned(), key: self.key }
    }
}

/// The one line of that name; what it says if there are several, or none that is text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, &'a str> {
    let mut lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?"));
    match (lines.next(), lines.next()) {
        (Some("?"), _) => Err("?"),
        (_, Some(second)) => Err(second),
        (only, None) => Ok(only),
    }
}

/// Host and port, as they are compared.
fn place(authority: &Authority, default_port: u16) -> (String, u16) {
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    (host, authority.port_u16().unwrap_or(default_port))
}

fn default_port(uri: &Uri) -> Option<u16> {
    match uri.scheme_str()? {
        "http" => Some(HTTP),
        "https" => Some(443),
        _ => None,
    }
}

const HTTP: u16 = 80;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMeant {
    /// It names another host.
    #[error(
        "this daemon is not called {host:?}: it answers to IP addresses, localhost, the machine's name and what {key} \
         lists"
    )]
    Host {
        /// What it names.
        host: String,
        /// Where the configuration lists names.
        key: &'static str,
    },
    /// A page of another site asks, in somebody's browser.
    #[error("a page of {origin:?} may not ask this daemon: {key} lists the hosts whose pages may")]
    Origin {
        /// The page's site.
        origin: String,
        /// Where the configuration lists names.
        key: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(listed: &[&str]) -> OwnNames {
        let listed = listed.iter().map(|text| text.parse().unwrap()).collect();
        OwnNames { machine: "node-17.example.com".to_owned(), listed, key: "door.names" }
    }

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn answers(names: &OwnNames, lines: &[(HeaderName, &str)]) -> bool {
        names.check(&Uri::from_static("/v2/"), &headers(lines)).is_ok()
    }

    #[test]
    fn a_daemon_answers_to_what_no_stranger_can_own() {
        let names = names(&["prom.example.com", "*.pods.cluster.local:4005", "peer"]);
        for host in [
            "127.0.0.1:4001",
            "10.0.0.7",
            "[::1]:4001",
            "[fd00::7]",
            "localhost",
            "LOCALHOST:4001",
            "localhost.",
            "node-17",
            "node-17:4005",
            "Node-17.Example.com:4005",
            "prom.example.com:9100",
            "peer:4001",
            "10-0-0-7.pods.cluster.local:4005",
            "",
        ] {
            assert!(answers(&names, &[(HOST, host)]), "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:4001",
            "node-17.evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "10-0-0-7.pods.cluster.local",
            "example.com",
            "node-18",
            "2130706433",
            "127.1",
            "0x7f.1",
            "peer.evil.test",
            "a b",
            "evil.test/",
            "user@evil.test",
        ] {
            assert!(!answers(&names, &[(HOST, host)]), "{host}");
        }
    }

    #[test]
    fn who_sends_no_host_is_no_browser_and_who_sends_two_is_nobody() {
        assert!(answers(&names(&[]), &[]));
        assert!(!answers(&names(&[]), &[(HOST, "127.0.0.1"), (HOST, "evil.test")]));
        assert!(!answers(&names(&[]), &[(HOST, "127.0.0.1"), (HOST, "127.0.0.1")]));
    }

    #[test]
    fn an_absolute_target_names_the_host_whatever_the_header_says() {
        let own = headers(&[(HOST, "127.0.0.1")]);
        let target = |uri: &'static str| names(&[]).check(&Uri::from_static(uri), &own).is_ok();
        assert!(target("http://127.0.0.1:4005/status") && !target("http://evil.test/status"));
    }

    #[test]
    fn a_page_asks_its_own_site_only() {
        let listed = names(&["ui.example.com"]);
        for (host, origin, is_own) in [
            ("127.0.0.1:4001", "http://127.0.0.1:4001", true),
            ("LOCALHOST", "http://localhost", true),
            ("localhost:443", "https://localhost", true),
            ("127.0.0.1:4001", "https://ui.example.com", true),
            ("127.0.0.1:4001", "http://127.0.0.1:8080", false),
            ("127.0.0.1:4001", "http://evil.test", false),
            ("127.0.0.1:4001", "http://6.6.6.6", false),
            ("127.0.0.1:4001", "null", false),
            ("127.0.0.1:4001", "", false),
            ("127.0.0.1:4001", "file://", false),
            ("", "http://127.0.0.1:4001", false),
        ] {
            assert_eq!(answers(&listed, &[(HOST, host), (ORIGIN, origin)]), is_own, "{host} {origin}");
        }
        let twice = [(HOST, "127.0.0.1"), (ORIGIN, "http://127.0.0.1"), (ORIGIN, "http://evil.test")];
        assert!(!answers(&listed, &twice));
    }

    #[test]
    fn a_refusal_says_which_key_would_allow_it() {
        let refused = |lines: &[(HeaderName, &str)]| {
            names(&[]).check(&Uri::from_static("/"), &headers(lines)).unwrap_err().to_string()
        };
        let by_host = refused(&[(HOST, "evil.test:4001")]);
        assert!(by_host.contains("\"evil.test:4001\"") && by_host.contains("door.names"), "{by_host}");
        let by_origin = refused(&[(HOST, "127.0.0.1"), (ORIGIN, "http://evil.test")]);
        assert!(
            by_origin.contains("\"http://evil.test\"") && by_origin.contains("door.names"),
            "{by_origin}"
        );
    }

    proptest! {
        #[test]
        fn no_name_that_somebody_may_buy_is_answered(host in "[a-z0-9-]{1,20}(\\.[a-z0-9-]{1,10}){0,2}\\.test(:[0-9]{1,5})?") {
            prop_assert!(!answers(&names(&["peer", "*.cluster.local"]), &[(HOST, &host)]));
        }

        #[test]
        fn no_value_makes_the_check_fail_otherwise(host in "[ -~]{0,30}", origin in "[ -~]{0,30}") {
            let _ = answers(&names(&[]), &[(HOST, &host), (ORIGIN, &origin)]);
        }
    }
}
