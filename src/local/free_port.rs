//! A free loopback port for a child process that binds it by itself.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;

/// A port that is free for TCP and UDP at this moment and not among `taken`.
pub(crate) fn free_port(taken: &[u16]) -> Result<u16, NoFreePort> {
    // From a random one on, so that two regions that start at once are unlikely to meet.
    let first = fastrand::u16(CANDIDATES);
    let mut candidates = (first..CANDIDATES.end).chain(CANDIDATES.start..first);
    candidates.find(|port| !taken.contains(port) && is_free(*port)).ok_or(NoFreePort)
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

/// Below the range from which Linux takes the ports of outgoing connections
/// (`net.ipv4.ip_local_port_range`): nothing slips in before the child binds it, and a daemon
/// that was killed finds its port again.
const CANDIDATES: Range<u16> = 20_000..32_000;

/// Every candidate is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no loopback port from {} to {} is free", CANDIDATES.start, CANDIDATES.end - 1)]
pub(crate) struct NoFreePort;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free() {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(udp.local_addr().unwrap().port()));
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(tcp.local_addr().unwrap().port()));
    }

    #[test]
    fn a_taken_port_is_not_given_again() {
        let all: Vec<u16> = CANDIDATES.collect();
        assert_eq!(free_port(&all), Err(NoFreePort));
        let one = free_port(&[]).unwrap();
        let others: Vec<u16> = CANDIDATES.filter(|port| *port != one).collect();
        assert_eq!(free_port(&others), Ok(one));
    }
}
