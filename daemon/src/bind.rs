//! Binding a configured address, with errors that name the key of the configuration.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use tokio::net::TcpListener;

/// Listens on `address`, which the configuration gives under `key` (as in `door.listen`).
///
/// # Errors
///
/// Names the key, the address and, where the port is taken, what to look at.
pub async fn bind_tcp(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError::new(key, address, source))
}

/// Binds a nonblocking UDP socket to `address`, which the configuration gives under `key`.
///
/// # Errors
///
/// As [`bind_tcp`].
pub fn bind_udp(key: &'static str, address: SocketAddr) -> Result<UdpSocket, BindError> {
    let bind = || {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    bind().map_err(|source| BindError::new(key, address, source))
}

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
            _ => Self::Refused { key, address, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn a_taken_tcp_port_names_the_key_and_the_address() {
        let holder = bind_tcp("door.listen", ANY_PORT).await.unwrap();
        let address = holder.local_addr().unwrap();
        let error = bind_tcp("door.listen", address).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("door.listen {address}: address in use")), "{error}");
    }

    #[test]
    fn a_taken_udp_port_names_the_key_and_the_address() {
        let holder = bind_udp("piece.listen", ANY_PORT).unwrap();
        let address = holder.local_addr().unwrap();
        let error = bind_udp("piece.listen", address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("piece.listen {address}: address in use")), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_names_the_key_and_the_reason() {
        let elsewhere = "192.0.2.1:4001".parse().unwrap();
        let error = bind_tcp("door.listen", elsewhere).await.unwrap_err().to_string();
        assert!(error.starts_with("door.listen 192.0.2.1:4001: "), "{error}");
    }
}
