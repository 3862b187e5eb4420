//! Binding a configured address, with errors that name the key of the configuration.
//!
//! `[::]` is every address of both families, whatever the system's default for it is; where
//! the kernel has no IPv6, it is every IPv4 address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::start::MayPass;

/// Listens on `address`, which the configuration gives under `key` (as in `door.listen`).
///
/// # Errors
///
/// Names the key, the address and, where the port is taken, what to look at.
pub fn bind_tcp(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    reserve_tcp(key, address)?.listen()
}

/// Takes `address` without listening on it: nobody else can have it, and who connects is
/// refused at once.
///
/// # Errors
///
/// As [`bind_tcp`].
pub fn reserve_tcp(key: &'static str, address: SocketAddr) -> Result<ReservedTcp, BindError> {
    let socket = open(address, Type::STREAM).map_err(|source| BindError::new(key, address, source))?;
    Ok(ReservedTcp { key, address, socket })
}

/// Binds a nonblocking UDP socket to `address`, which the configuration gives under `key`.
///
/// # Errors
///
/// As [`bind_tcp`].
pub fn bind_udp(key: &'static str, address: SocketAddr) -> Result<UdpSocket, BindError> {
    let socket = open(address, Type::DGRAM).map_err(|source| BindError::new(key, address, source))?;
    Ok(socket.into())
}

/// An address that is taken and not listened on yet.
#[derive(Debug)]
pub struct ReservedTcp {
    key: &'static str,
    address: SocketAddr,
    socket: Socket,
}

impl ReservedTcp {
    /// The address with the port that the system chose, if it was asked to.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        socket_addr(&self.socket)
    }

    /// Listens.
    ///
    /// # Errors
    ///
    /// As [`bind_tcp`].
    pub fn listen(self) -> Result<TcpListener, BindError> {
        let Self { key, address, socket } = self;
        let listen = || {
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        listen().map_err(|source| BindError::new(key, address, source))
    }
}

fn open(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    match open_exactly(address, kind) {
        Err(error) if is_any_v6(address) && is_without_ipv6(&error) => {
            open_exactly((Ipv4Addr::UNSPECIFIED, address.port()).into(), kind)
        }
        opened => opened,
    }
}

fn open_exactly(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if is_any_v6(address) {
        socket.set_only_v6(false)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier life that wind down do not hold the port.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn is_any_v6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

fn socket_addr(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}

/// As the standard library and tokio have it.
const BACKLOG: i32 = 1024;

/// Why a configured address could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has it.
    #[error("{key} {address}: address in use; another flotilla or another program listens there")]
    InUse {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// No interface of this machine has it, or not yet.
    #[error("{key} {address}: this machine does not have this address (`ip address` shows those it has)")]
    NotHere {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// Anything else the system says.
    #[error("{key} {address}: {source}")]
    Refused {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

impl BindError {
    fn new(key: &'static str, address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { key, address },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { key, address },
            _ => Self::Refused { key, address, source },
        }
    }
}

impl MayPass for BindError {
    /// An interface may come up later, and get its address later still.
    fn may_pass(&self) -> bool {
        match self {
            Self::NotHere { .. } => true,
            Self::InUse { .. } | Self::Refused { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn a_taken_tcp_port_names_the_key_and_the_address() {
        let holder = bind_tcp("door.listen", ANY_PORT).unwrap();
        let address = holder.local_addr().unwrap();
        let error = bind_tcp("door.listen", address).unwrap_err();
        assert!(error.to_string().starts_with(&format!("door.listen {address}: address in use")), "{error}");
        assert!(!error.may_pass());
    }

    #[test]
    fn a_taken_udp_port_names_the_key_and_the_address() {
        let holder = bind_udp("piece.listen", ANY_PORT).unwrap();
        let address = holder.local_addr().unwrap();
        let error = bind_udp("piece.listen", address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("piece.listen {address}: address in use")), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_may_come_later() {
        let elsewhere = "192.0.2.1:4001".parse().unwrap();
        let error = bind_tcp("door.listen", elsewhere).unwrap_err();
        assert!(error.to_string().starts_with("door.listen 192.0.2.1:4001: this machine does not have"));
        assert!(error.may_pass());
    }

    #[tokio::test]
    async fn every_address_is_every_address_of_both_families() {
        let listener = bind_tcp("listen", "[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)).unwrap();
        }

        let pieces = bind_udp("transport.listen", "[::]:0".parse().unwrap()).unwrap();
        pieces.set_nonblocking(false).unwrap();
        let sender = UdpSocket::bind(ANY_PORT).unwrap();
        sender.send_to(b"piece", (Ipv4Addr::LOCALHOST, pieces.local_addr().unwrap().port())).unwrap();
        assert_eq!(pieces.recv_from(&mut [0; 8]).unwrap().0, 5);
    }

    #[tokio::test]
    async fn a_reserved_address_is_nobody_elses_and_refuses_until_it_is_listened_on() {
        let reserved = reserve_tcp("door.listen", ANY_PORT).unwrap();
        let address = reserved.local_addr().unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _listener = reserved.listen().unwrap();
        TcpStream::connect(address).unwrap();
    }
}
