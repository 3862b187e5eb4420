//! Whom to set up, by which door, for which registry.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flotilla_proto::RegistryHost;
use hyper::Uri;
use serde::{Deserialize, Serialize};

/// A client of registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Client {
    /// dockerd
    Docker,
    /// containerd: crictl and Kubernetes, nerdctl, ctr
    Containerd,
    /// Podman, Buildah and skopeo: they read the same files
    #[value(alias = "buildah", alias = "skopeo")]
    Podman,
    /// CRI-O
    #[value(alias = "cri-o")]
    Crio,
    /// buildkitd
    #[value(alias = "buildkitd")]
    Buildkit,
}

/// A front door (docs/design.md §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DoorName {
    /// The peer is the client's HTTPS proxy
    Proxy,
    /// The peer is the registry's mirror
    Mirror,
    /// The peer stands in front of the image's name
    Prefix,
    /// The registry's name leads to the peer
    Sni,
}

/// One client, one door, one registry.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) client: Client,
    pub(super) door: DoorName,
    pub(super) registry: RegistryHost,
    /// Where the doors listen.
    pub(super) peer: PeerUrl,
    /// Of the peer: its CAs lie there.
    pub(super) data_dir: PathBuf,
    /// The one `auth.json` to look at; the usual places otherwise.
    pub(super) authfile: Option<PathBuf>,
    /// Docker's proxy goes into `daemon.json`.
    pub(super) daemon_json: bool,
    /// The registries that the peer carries, where it was asked.
    pub(super) carried: Option<Vec<RegistryHost>>,
}

/// `http://host:port` of a peer's doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerUrl {
    authority: String,
    host: String,
}

impl Client {
    /// The door that serves it best (`README.md`, 5a to 5c).
    pub(super) fn usual_door(self, registry: &RegistryHost) -> DoorName {
        match self {
            // `registry-mirrors` is made for the hub, needs no restart, and falls back.
            Self::Docker if registry.is_docker_hub() => DoorName::Mirror,
            Self::Docker => DoorName::Proxy,
            Self::Containerd | Self::Podman | Self::Crio | Self::Buildkit => DoorName::Mirror,
        }
    }
}

impl Request {
    /// The CA that the peer made for the registry.
    pub(super) fn ca_file(&self) -> PathBuf {
        ca_file(&self.data_dir, &self.registry)
    }

    /// The image's name under the prefix door: `host:port/registry`.
    pub(super) fn prefixed(&self) -> String {
        format!("{}/{}", self.peer.authority(), self.registry)
    }

    /// Whether a request without a registry's name may mean another one: the peer carries several, or
    /// was not asked.
    pub(super) fn may_be_confused(&self) -> bool {
        self.carried.as_ref().is_none_or(|carried| carried.len() > 1)
    }

    /// The prefix of an image's name cannot hold a second port.
    pub(super) fn registry_has_port(&self) -> bool {
        self.registry.as_str().contains([':', '['])
    }

    /// Go's HTTP clients never use a proxy for these, and dockerd trusts any certificate of theirs.
    pub(super) fn registry_is_loopback(&self) -> bool {
        is_loopback(self.registry.host())
    }
}

impl PeerUrl {
    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is an address of this machine only.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for PeerUrl {
    type Err = ParsePeerUrlError;

    fn from_str(text: &str) -> Result<Self, ParsePeerUrlError> {
        let uri: Uri = text.parse().map_err(|_| ParsePeerUrlError)?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
        let (Some(authority), true) = (authority, plain) else { return Err(ParsePeerUrlError) };
        if authority.port_u16().is_none() {
            return Err(ParsePeerUrlError);
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Ok(Self { authority: authority.as_str().to_owned(), host })
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Crio => "crio",
            Self::Buildkit => "buildkit",
        })
    }
}

impl fmt::Display for DoorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxy => "proxy",
            Self::Mirror => "mirror",
            Self::Prefix => "prefix",
            Self::Sni => "sni",
        })
    }
}

/// The CA that a peer with this data directory made for the registry.
pub(crate) fn ca_file(data_dir: &Path, registry: &RegistryHost) -> PathBuf {
    let name = registry.as_str().replace([':', '[', ']'], "_");
    data_dir.join("ca").join(format!("{name}.pem"))
}

/// Where a peer keeps its CAs unless it is told otherwise.
pub(crate) fn usual_data_dir() -> &'static Path {
    Path::new("/var/lib/flotilla/peer")
}

/// A text that is no peer's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer's doors are at http://host:port, without a path: they speak plain HTTP")]
pub(crate) struct ParsePeerUrlError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_by_host_and_port() {
        let peer: PeerUrl = "http://127.0.0.1:4001/".parse().unwrap();
        assert_eq!((peer.to_string().as_str(), peer.host()), ("http://127.0.0.1:4001", "127.0.0.1"));
        assert!(peer.is_loopback());
        let peer: PeerUrl = "http://[fd00::1]:4001".parse().unwrap();
        assert_eq!((peer.authority(), peer.host(), peer.is_loopback()), ("[fd00::1]:4001", "fd00::1", false));
        for text in ["", "127.0.0.1:4001", "https://a:1", "http://a", "http://a:1/v2", "http://u:p@a:1"] {
            assert_eq!(text.parse::<PeerUrl>(), Err(ParsePeerUrlError), "{text}");
        }
    }
}
