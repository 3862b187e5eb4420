//! The peer's configuration: `peer.toml`, the same for a seed.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use flotilla_daemon::config::{AdminConfig, Bandwidth, HostPattern, LogConfig, ManagerConfig, MetricsConfig};
use flotilla_daemon::net::{AdvertiseError, check_advertise};
use flotilla_proto::{PeerId, RegistryHost};
use serde::{Deserialize, Serialize};

use crate::source::SourceConfig;
use crate::store::StoreConfig;

/// `peer.toml`. Every key is optional. Whether a peer is a seed, its certificate says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerConfig {
    /// This daemon's name in the cluster; the machine's name where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerId>,
    /// Where its identity, the settings, its CAs and the store are kept.
    pub data_dir: PathBuf,
    /// Its place in the region: rack, availability zone. Empty: the region is one zone.
    pub zone: String,
    /// How it first meets the manager.
    pub manager: ManagerConfig,
    /// Where clients of this node connect.
    pub door: DoorConfig,
    /// Where other peers connect.
    pub transport: TransportConfig,
    /// What is kept on disk.
    pub store: StoreConfig,
    /// How a seed reads from registries.
    pub source: SourceConfig,
    /// Health, status and metrics, for this machine.
    pub admin: AdminConfig,
    /// Metrics, for a Prometheus elsewhere.
    pub metrics: MetricsConfig,
    /// What is logged.
    pub log: LogConfig,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            name: None,
            data_dir: PathBuf::from("/var/lib/flotilla/peer"),
            zone: String::new(),
            manager: ManagerConfig::default(),
            door: DoorConfig::default(),
            transport: TransportConfig::default(),
            store: StoreConfig::default(),
            source: SourceConfig::default(),
            admin: AdminConfig::on_port(4005),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl PeerConfig {
    /// Checks what a type cannot: for `--check`, and before a start.
    ///
    /// # Errors
    ///
    /// Names the key.
    pub fn validate(&self) -> Result<(), InvalidPeerConfigError> {
        check_advertise(self.transport.advertise, self.transport.listen)
            .map_err(InvalidPeerConfigError::Advertise)
    }
}

/// A value that no peer can work with.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPeerConfigError {
    /// Nobody could reach the piece port.
    #[error("[transport] {0}")]
    Advertise(AdvertiseError),
}

/// `[door]`: where clients of this node connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DoorConfig {
    /// The address of `proxy`, `mirror` and `prefix`. Whoever reaches it is served with its
    /// own credentials only.
    pub listen: SocketAddr,
    /// What clients call this node there, besides its addresses, `localhost` and the machine's name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<HostPattern>,
    /// The address of `sni`, where clients land whose resolver takes this node for a registry:
    /// TLS, port 443. Not open unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni_listen: Option<SocketAddr>,
    /// Where the proxy door's blind tunnels may lead: `["*.example.com", "10.0.0.7:443"]`. Without
    /// a list anywhere where `listen` is loopback, and nowhere otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<Vec<HostPattern>>,
    /// Who may use the proxy door, on hosts that several people share: a file with a
    /// `user:password` on each line. Everybody unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_users: Option<PathBuf>,
    /// The registry of a mirror's request that names none, as Podman's do. Not needed
    /// where the region has only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_upstream: Option<RegistryHost>,
}

impl Default for DoorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4001)),
            names: Vec::new(),
            sni_listen: None,
            tunnels: None,
            proxy_users: None,
            default_upstream: None,
        }
    }
}

/// `[transport]`: where other peers connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportConfig {
    /// The UDP address of the piece port. `[::]` is every address of both families.
    pub listen: SocketAddr,
    /// Where other peers reach it, if that is another address than `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// The largest packet that the network between the nodes carries, in bytes. What a path
    /// really carries is found out, up to this.
    pub mtu: Mtu,
    /// What pieces may take of the node's uplink, a second; all of it unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_bandwidth: Option<Bandwidth>,
    /// What pieces from other peers may take of its downlink, a second; all of it unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_bandwidth: Option<Bandwidth>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4006));
        Self { listen, advertise: None, mtu: Mtu::ETHERNET, send_bandwidth: None, receive_bandwidth: None }
    }
}

/// An IP packet's length in bytes, from 1280, which every network carries (RFC 8200 §5), to 9216.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Mtu(u16);

impl Mtu {
    /// Ethernet without jumbo frames.
    pub const ETHERNET: Self = Self(1500);

    /// What is left of it for QUIC, behind the headers of IPv6 and UDP.
    pub(crate) fn datagram_len(self) -> u16 {
        self.0 - 48
    }
}

impl TryFrom<u16> for Mtu {
    type Error = MtuError;

    fn try_from(bytes: u16) -> Result<Self, MtuError> {
        (1280..=9216).contains(&bytes).then_some(Self(bytes)).ok_or(MtuError(bytes))
    }
}

impl From<Mtu> for u16 {
    fn from(mtu: Mtu) -> Self {
        mtu.0
    }
}

/// No network has such packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an MTU is from 1280 to 9216 bytes, not {0}")]
pub struct MtuError(u16);
