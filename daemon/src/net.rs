//! What a daemon is called, and where others reach it, when the configuration does not say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use flotilla_proto::PeerId;

use crate::start::MayPass;

/// The configured name, or the machine's: its first label, in lowercase.
///
/// # Errors
///
/// If no name is configured and the machine's is no DNS label.
pub fn daemon_name(configured: Option<&PeerId>) -> Result<PeerId, NameError> {
    if let Some(name) = configured {
        return Ok(name.clone());
    }
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy().to_ascii_lowercase();
    let label = host.split('.').next().unwrap_or_default();
    label.parse().map_err(|_| NameError { host: host.clone() })
}

/// Whether others can reach a daemon at `advertise` that listens at `listen`: for `--check`,
/// and before a start.
///
/// # Errors
///
/// If no packet to the one can come in at the other.
pub fn check_advertise(advertise: Option<SocketAddr>, listen: SocketAddr) -> Result<(), AdvertiseError> {
    let Some(advertise) = advertise else { return Ok(()) };
    let is_both = listen.is_ipv6() && listen.ip().is_unspecified();
    if advertise.ip().is_unspecified() {
        return Err(AdvertiseError::Nowhere { advertise });
    }
    if advertise.is_ipv4() != listen.is_ipv4() && !is_both {
        return Err(AdvertiseError::OtherFamily { advertise, listen });
    }
    Ok(())
}

/// Where others reach a socket that is bound to `bound`: the configured address; else
/// `bound` itself; else, where that is all addresses, the one this machine has on its
/// default route, IPv4 first where it listens on both.
///
/// # Errors
///
/// If there is no such route, or the configuration contradicts itself.
pub fn advertised(configured: Option<SocketAddr>, bound: SocketAddr) -> Result<SocketAddr, AdvertiseError> {
    if let Some(address) = configured {
        check_advertise(configured, bound)?;
        return Ok(address);
    }
    if !bound.ip().is_unspecified() {
        return Ok(bound);
    }
    let routed = on_default_route(IpAddr::V4(NOBODYS_V4));
    let routed =
        if bound.is_ipv6() { routed.or_else(|_| on_default_route(IpAddr::V6(NOBODYS_V6))) } else { routed };
    let ip = routed.map_err(|source| AdvertiseError::NoRoute { bound, source })?;
    Ok(SocketAddr::new(ip, bound.port()))
}

/// Connecting a UDP socket sends nothing; it only picks the route.
fn on_default_route(to: IpAddr) -> io::Result<IpAddr> {
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect((to, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// Reserved for documentation (RFC 5737, RFC 3849), so nobody's and behind the default route.
const NOBODYS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOBODYS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The machine's name is no daemon's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this machine's name `{host}` cannot be the daemon's: set `name` to 1 to 63 of a-z, 0-9 and '-'")]
pub struct NameError {
    host: String,
}

/// Nobody can say where others reach this daemon, or what is said cannot be.
#[derive(Debug, thiserror::Error)]
pub enum AdvertiseError {
    /// Every address is listened on, and there is no route to choose one by.
    #[error(
        "listen {bound} is every {} address and this machine has no default route: set `advertise` to where \
         others reach it{}",
        if bound.is_ipv6() { "IPv4 and IPv6" } else { "IPv4" },
        if bound.is_ipv6() { "" } else { ", or, where it has IPv6 only, `listen` to \"[::]:PORT\"" }
    )]
    NoRoute {
        /// Where it listens.
        bound: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// One is IPv4, the other IPv6.
    #[error(
        "advertise {advertise}: nothing comes in there, because listen {listen} has no {} address; \
         `listen = \"[::]:PORT\"` has both families",
        if advertise.is_ipv6() { "IPv6" } else { "IPv4" }
    )]
    OtherFamily {
        /// Where others should reach it.
        advertise: SocketAddr,
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Nobody can connect to every address.
    #[error("advertise {advertise}: others cannot reach every address; give one, as in 10.0.0.7:4006")]
    Nowhere {
        /// What stands there.
        advertise: SocketAddr,
    },
}

impl MayPass for AdvertiseError {
    /// A route may come; a contradiction stays.
    fn may_pass(&self) -> bool {
        match self {
            Self::NoRoute { .. } => true,
            Self::OtherFamily { .. } | Self::Nowhere { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_is_what_is_advertised() {
        let (bound, told) = ("0.0.0.0:4003".parse().unwrap(), "10.0.0.7:4003".parse().unwrap());
        assert_eq!(advertised(Some(told), bound).unwrap(), told);
        assert_eq!(advertised(None, told).unwrap(), told);
    }

    #[test]
    fn an_address_that_nothing_comes_in_at_is_refused() {
        let refused = |told: &str, listen: &str| {
            let error = check_advertise(Some(told.parse().unwrap()), listen.parse().unwrap()).unwrap_err();
            assert!(!error.may_pass());
            error.to_string()
        };
        let error = refused("[2001:db8::7]:4006", "0.0.0.0:4006");
        assert!(
            error.starts_with("advertise [2001:db8::7]:4006: nothing comes in there, because listen"),
            "{error}"
        );
        assert!(error.contains("has no IPv6 address") && error.contains("[::]:PORT"), "{error}");
        assert!(refused("10.0.0.7:4006", "[2001:db8::7]:4006").contains("has no IPv4 address"));
        assert!(refused("0.0.0.0:4006", "[::]:4006").contains("every address"));
        for (told, listen) in [
            ("10.0.0.7:4006", "[::]:4006"),
            ("[2001:db8::7]:4006", "[::]:4006"),
            ("10.0.0.7:4006", "0.0.0.0:4006"),
            ("[2001:db8::7]:4006", "[2001:db8::8]:4006"),
        ] {
            check_advertise(Some(told.parse().unwrap()), listen.parse().unwrap()).unwrap();
        }
    }

    #[test]
    fn no_default_route_names_the_families_that_were_looked_at() {
        let error = |bound: &str| {
            let (bound, source) = (bound.parse().unwrap(), io::ErrorKind::NetworkUnreachable.into());
            AdvertiseError::NoRoute { bound, source }.to_string()
        };
        assert!(
            error("0.0.0.0:4006").contains("every IPv4 address") && error("0.0.0.0:4006").contains("[::]")
        );
        assert!(error("[::]:4006").contains("every IPv4 and IPv6 address"), "{}", error("[::]:4006"));
    }
}
