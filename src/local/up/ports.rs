//! The region's ports: free ones the first time, the same ones ever after.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::local::free_port::{NoFreePort, free_port};

/// Loopback ports by use ("peer-0 door").
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ports {
    port_by_use: BTreeMap<String, u16>,
}

impl Ports {
    /// The ports kept in `file`; none if there is no such file.
    pub(crate) fn load(file: &Path) -> Result<Self, PortsError> {
        match fs::read(file) {
            Ok(json) => serde_json::from_slice(&json).map_err(PortsError::Malformed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(PortsError::Io(error)),
        }
    }

    /// Keeps the ports in `file`.
    pub(crate) fn save(&self, file: &Path) -> Result<(), PortsError> {
        let json = serde_json::to_vec_pretty(self).map_err(PortsError::Malformed)?;
        fs::write(file, json).map_err(PortsError::Io)
    }

    /// The address for this use: as kept, or a port that is free for TCP and UDP.
    pub(crate) fn address(&mut self, name: &str, what: &str) -> Result<SocketAddr, PortsError> {
        let key = format!("{name} {what}");
        let port = match self.port_by_use.get(&key) {
            Some(port) => *port,
            None => free_port(&self.port_by_use.values().copied().collect::<Vec<_>>())?,
        };
        self.port_by_use.insert(key, port);
        Ok((Ipv4Addr::LOCALHOST, port).into())
    }
}

/// Why there are no ports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortsError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(io::Error),
    /// The file is not what this program writes.
    #[error("it is no map of ports: {0}")]
    Malformed(serde_json::Error),
    /// Every port is in use.
    #[error(transparent)]
    NoneFree(#[from] NoFreePort),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_the_same_the_next_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ports.json");
        let mut ports = Ports::load(&file).unwrap();
        let first: Vec<_> = (0..50).map(|n| ports.address(&format!("peer-{n}"), "door").unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), first.len());

        ports.save(&file).unwrap();
        let mut again = Ports::load(&file).unwrap();
        assert_eq!(again.address("peer-7", "door").unwrap(), first[7]);
        assert_eq!(again, ports);
    }

    #[test]
    fn a_file_that_holds_no_ports_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ports.json");
        fs::write(&file, "[]").unwrap();
        assert!(matches!(Ports::load(&file), Err(PortsError::Malformed(_))));
    }
}
