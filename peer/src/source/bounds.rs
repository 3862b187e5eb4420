//! Where a registry may lead this seed: by a redirect, by the realm of a token service, anywhere off its own host.
//!
//! A seed stands inside of a network, and a registry may name whatever it likes. So the addresses that a name
//! resolves to are judged, and none but those that pass are dialled. What an operator lists passes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use flotilla_daemon::config::{HostPattern, HostPatternError};
use http::Uri;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address::AddressKind;
use super::connect::port_of;

/// What holds for every place that a registry leads to.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Where this daemon itself listens.
    listeners: Vec<SocketAddr>,
    exceptions: Vec<Destination>,
}

impl Bounds {
    pub(super) fn new(listeners: Vec<SocketAddr>, exceptions: Vec<Destination>) -> Self {
        Self { listeners, exceptions }
    }

    /// Those of the addresses that `host` resolves to where a registry may lead that is itself at `own`, if that is
    /// known; at a public address otherwise.
    pub(super) fn admit(
        &self,
        own: Option<IpAddr>,
        host: &str,
        resolved: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, Refused> {
        let mut refused = None;
        let mut admitted = Vec::new();
        for address in resolved {
            match self.judge(own, host, *address) {
                Ok(()) => admitted.push(*address),
                Err(reason) => refused = Some(reason),
            }
        }
        match refused {
            Some(refused) if admitted.is_empty() => Err(refused),
            _ => Ok(admitted),
        }
    }

    /// Whether a proxy may be asked for `host`, which alone resolves it: what can be seen of a name is judged.
    pub(super) fn admit_unresolved(&self, own: Option<IpAddr>, host: &str, port: u16) -> Result<(), Refused> {
        let Some(address) = literal(host).or_else(|| localhost(host)) else { return Ok(()) };
        self.judge(own, host, SocketAddr::new(address, port))
    }

    /// Whether a registry of TLS may lead to `target` in clear.
    pub(super) fn admits_clear(&self, target: &Uri) -> bool {
        let Some(host) = target.host() else { return false };
        self.exceptions.iter().any(|it| it.is_clear && it.holds(host, literal(host), port_of(target)))
    }

    fn judge(&self, own: Option<IpAddr>, host: &str, address: SocketAddr) -> Result<(), Refused> {
        if self.is_this_daemon(address) {
            return Err(Refused::OwnDaemon { address });
        }
        let ip = address.ip().to_canonical();
        let own = own.map(|own| own.to_canonical());
        let (is_own, kind) = (own == Some(ip), AddressKind::of(ip));
        let leads = own.map_or(AddressKind::Public, AddressKind::of).leads_to(kind);
        let is_listed = || self.exceptions.iter().any(|it| it.holds(host, Some(ip), address.port()));
        if is_own || leads || is_listed() {
            return Ok(());
        }
        Err(Refused::Address { host: host.to_owned(), address, kind })
    }

    fn is_this_daemon(&self, address: SocketAddr) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        // The kernel takes the unspecified address for loopback.
        let is_here = AddressKind::of(ip) == AddressKind::Loopback || ip.is_unspecified();
        self.listeners.iter().filter(|listener| listener.port() == port).any(|listener| {
            let listened = listener.ip().to_canonical();
            listened == ip || is_here && (listened.is_unspecified() || listened.is_loopback())
        })
    }
}

/// Where registries may lead although they might not otherwise: `10.1.0.0/16`, `storage.internal`, `*.internal:9000`;
/// with `http://` in front, also from https.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    is_clear: bool,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Network(IpNet),
    Host(HostPattern),
}

impl Destination {
    fn holds(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match &self.place {
            Place::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Place::Host(pattern) => {
                let by_address = address.is_some_and(|address| pattern.matches(&address.to_string(), port));
                pattern.matches(host, port) || by_address
            }
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let (is_clear, place) = match text.trim().strip_prefix(CLEAR) {
            Some(place) => (true, place),
            None => (false, text.trim()),
        };
        let place = match place.contains('/') {
            true => Place::Network(place.parse().map_err(|_| DestinationError::Network(text.to_owned()))?),
            false => Place::Host(place.parse()?),
        };
        Ok(Self { is_clear, place })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_clear { CLEAR } else { "" })?;
        match &self.place {
            Place::Network(network) => network.fmt(f),
            Place::Host(pattern) => pattern.fmt(f),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = DestinationError;

    fn try_from(text: String) -> Result<Self, DestinationError> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

const CLEAR: &str = "http://";

/// A text that is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// No network.
    #[error("{0:?} is no network; write 10.1.0.0/16 or fd00:1::/32")]
    Network(String),
    /// No host.
    #[error(transparent)]
    Host(#[from] HostPatternError),
}

/// Whether the host of a URL writes an IPv4 address as programs read it and people do not: a last label that is a
/// number makes an address of it (URL Standard §3.5). Resolvers read octal and hexadecimal in it, and fewer parts.
pub(super) fn is_odd_address(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    (is_number || is_hex) && host.parse::<Ipv4Addr>().is_err()
}

/// The address that the host of a URL writes.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What this name means, whatever a resolver says (RFC 6761 §6.3).
fn localhost(host: &str) -> Option<IpAddr> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    (host == "localhost" || host.ends_with(".localhost")).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Why a registry may not lead there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nearer than the registry itself is.
    #[error("leads to {host} at {address}, {kind}: if that is meant, list it in {KEY}")]
    Address {
        /// As the registry names it.
        host: String,
        /// What that resolves to.
        address: SocketAddr,
        /// What that is.
        kind: AddressKind,
    },
    /// What listens there is this seed.
    #[error("leads to {address}, where this seed itself listens")]
    OwnDaemon {
        /// Where it listens.
        address: SocketAddr,
    },
    /// Written so that it may mean several addresses.
    #[error("leads to {host}, which is an address and not written as one")]
    OddAddress {
        /// As the registry writes it.
        host: String,
    },
    /// From https to http.
    #[error("leads from https to {target}: if that is meant, list \"{target}\" in {KEY}")]
    Clear {
        /// Where it leads.
        target: String,
    },
}

/// Where an operator lists exceptions.
const KEY: &str = "source.may_lead_to";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PUBLIC: &str = "203.0.113.7";

    fn bounds(listed: &[&str]) -> Bounds {
        let listeners = vec!["127.0.0.1:4005".parse().unwrap(), "[::]:4001".parse().unwrap()];
        Bounds::new(listeners, listed.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn admitted(bounds: &Bounds, own: &str, host: &str, resolved: &[&str]) -> Result<Vec<String>, String> {
        let resolved: Vec<SocketAddr> = resolved.iter().map(|address| address.parse().unwrap()).collect();
        let admitted = bounds.admit(own.parse().ok(), host, &resolved);
        admitted
            .map(|admitted| admitted.iter().map(ToString::to_string).collect())
            .map_err(|refused| refused.to_string())
    }

    #[test]
    fn a_public_registry_leads_to_nothing_private_and_the_refusal_says_what_would_allow_it() {
        let error = admitted(&bounds(&[]), PUBLIC, "s3.test", &["10.0.0.5:443"]).unwrap_err();
        assert_eq!(
            error,
            "leads to s3.test at 10.0.0.5:443, a private address: if that is meant, list it in source.may_lead_to"
        );
        for address in
            ["127.0.0.1:80", "[::1]:80", "169.254.169.254:80", "[fd00:ec2::254]:80", "100.64.0.1:80"]
        {
            assert!(admitted(&bounds(&[]), PUBLIC, "s3.test", &[address]).is_err(), "{address}");
            // Nothing is known of one behind a proxy.
            assert!(admitted(&bounds(&[]), "", "s3.test", &[address]).is_err(), "{address}");
        }
        assert!(admitted(&bounds(&[]), PUBLIC, "s3.test", &["198.51.100.1:443"]).is_ok());
    }

    #[test]
    fn of_several_addresses_those_are_left_that_may_be_dialled() {
        let resolved = ["10.0.0.5:443", "198.51.100.1:443", "[fe80::1]:443"];
        assert_eq!(admitted(&bounds(&[]), PUBLIC, "s3.test", &resolved).unwrap(), ["198.51.100.1:443"]);
        assert_eq!(admitted(&bounds(&[]), "10.0.0.1", "s3.test", &resolved).unwrap(), resolved[..2]);
        assert!(admitted(&bounds(&[]), PUBLIC, "s3.test", &[]).unwrap().is_empty());
    }

    #[test]
    fn a_registry_leads_to_other_ports_of_its_own_machine_whatever_kind_that_is() {
        assert!(admitted(&bounds(&[]), "169.254.1.1", "reg.test", &["169.254.1.1:5001"]).is_ok());
        assert!(admitted(&bounds(&[]), "169.254.1.1", "reg.test", &["169.254.1.2:5001"]).is_err());
        assert!(admitted(&bounds(&[]), "127.0.0.1", "reg.test", &["[::ffff:127.0.0.1]:5001"]).is_ok());
    }

    #[test]
    fn nobody_leads_to_this_daemon_not_even_by_an_exception() {
        let listed = bounds(&["127.0.0.0/8", "*"]);
        for address in [
            "127.0.0.1:4005",
            "[::ffff:127.0.0.1]:4005",
            "[::1]:4005",
            "127.0.0.9:4001",
            "[::1]:4001",
            "0.0.0.0:4005",
            "[::]:4005",
        ] {
            for own in ["127.0.0.1", PUBLIC] {
                let error = admitted(&listed, own, "reg.test", &[address]).unwrap_err();
                assert!(error.contains("where this seed itself listens"), "{error}");
            }
        }
        assert!(admitted(&listed, "127.0.0.1", "reg.test", &["127.0.0.1:4006"]).is_ok());
        assert!(admitted(&listed, PUBLIC, "reg.test", &["198.51.100.1:4001"]).is_ok());
    }

    #[test]
    fn an_operator_lists_networks_hosts_and_what_may_be_in_clear() {
        let listed =
            bounds(&["10.1.0.0/16", "minio.internal:9000", "*.s3.internal", "192.168.1.1", "fd00:1::/32"]);
        for (host, address, is_allowed) in [
            ("any.test", "10.1.2.3:443", true),
            ("any.test", "[::ffff:10.1.2.3]:443", true),
            ("any.test", "10.2.2.3:443", false),
            ("minio.internal", "10.9.9.9:9000", true),
            ("MINIO.internal.", "10.9.9.9:9000", true),
            ("minio.internal", "10.9.9.9:9001", false),
            ("a.s3.internal", "127.0.0.1:1", true),
            ("s3.internal", "127.0.0.1:1", false),
            ("any.test", "192.168.1.1:1", true),
            ("any.test", "[fd00:1::5]:1", true),
            ("any.test", "[fd00:2::5]:1", false),
        ] {
            let found = admitted(&listed, PUBLIC, host, &[address]);
            assert_eq!(found.is_ok(), is_allowed, "{host} {address}");
        }
        let clear = bounds(&["http://old.internal", "http://10.0.0.0/8", "tls.internal"]);
        let is_clear = |uri: &str| clear.admits_clear(&uri.parse().unwrap());
        assert!(is_clear("http://old.internal/b") && is_clear("http://10.1.1.1/b"));
        assert!(!is_clear("http://tls.internal/b") && !is_clear("http://other.internal/b"));
        assert!(admitted(&clear, PUBLIC, "old.internal", &["10.0.0.1:80"]).is_ok());
    }

    #[test]
    fn what_a_proxy_resolves_is_judged_by_what_is_written() {
        let listed = bounds(&[]);
        let asked = |host: &str| listed.admit_unresolved(PUBLIC.parse().ok(), host, 80).is_ok();
        assert!(asked("s3.test") && asked("198.51.100.1"));
        for host in
            ["127.0.0.1", "[::1]", "10.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "169.254.169.254"]
        {
            assert!(!asked(host), "{host}");
        }
    }

    #[test]
    fn an_address_in_a_spelling_of_its_own_is_known_as_one() {
        for host in [
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "0X7F.0.0.1",
            "1.2.3.4.5",
            "127.0.0.1.",
            "0300.0250.1.1",
        ] {
            assert!(is_odd_address(host), "{host}");
        }
        for host in
            ["127.0.0.1", "reg.test", "s3-1", "1.reg.test", "[::1]", "0xcafe.test", "registry0", "a.b.", ""]
        {
            assert!(!is_odd_address(host), "{host}");
        }
    }

    #[test]
    fn what_is_no_destination_is_refused_by_name() {
        for text in ["10.0.0.0/33", "https://a.test", "http://", "a b", "a.test/path"] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_destination_reads_back_as_it_prints(
            text in "(http://)?(10\\.[0-9]\\.0\\.0/16|\\*\\.[a-z]{1,5}|[a-z]{1,5}(:[1-9][0-9]{0,3})?)",
        ) {
            let destination: Destination = text.parse().unwrap();
            prop_assert_eq!(destination.to_string(), text);
        }
    }
}
