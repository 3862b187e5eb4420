//! What a daemon is called, and where others reach it, when the configuration does not say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use flotilla_proto::PeerId;

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

/// Where others reach a socket that is bound to `bound`: the configured address; else
/// `bound` itself; else, where that is all addresses, the one this machine has on its
/// default route.
///
/// # Errors
///
/// If there is no such route: then the configuration must say.
pub fn advertised(configured: Option<SocketAddr>, bound: SocketAddr) -> Result<SocketAddr, AdvertiseError> {
    if let Some(address) = configured {
        return Ok(address);
    }
    if !bound.ip().is_unspecified() {
        return Ok(bound);
    }
    let ip = address_on_default_route().map_err(|source| AdvertiseError { bound, source })?;
    Ok(SocketAddr::new(ip, bound.port()))
}

/// Connecting a UDP socket sends nothing; it only picks the route. The address is one that
/// is reserved for documentation (RFC 5737), so it is nobody's.
fn address_on_default_route() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The machine's name is no daemon's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this machine's name `{host}` cannot be the daemon's: set `name` to 1 to 63 of a-z, 0-9 and '-'")]
pub struct NameError {
    host: String,
}

/// Nobody says where others reach this daemon.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bound} is every address and this machine has no default route: set `advertise` to where others reach it"
)]
pub struct AdvertiseError {
    bound: SocketAddr,
    source: io::Error,
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
}
