//! The names that image references are made of.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A registry as image names carry it: `host` or `host:port`, lowercase. The port 443 of
/// HTTPS is never written, and Docker Hub is `docker.io` whichever of its names was.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryHost(Arc<str>);

impl RegistryHost {
    /// The text, `host` or `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host alone, without brackets around an IPv6 address.
    pub fn host(&self) -> &str {
        let host = match self.0.rsplit_once(':') {
            Some((host, _)) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => host,
            _ => &self.0,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, 443 where none is written.
    pub fn port(&self) -> u16 {
        match self.0.rsplit_once(':') {
            Some((_, port)) => port.parse().unwrap_or(443),
            None => 443,
        }
    }

    /// Whether it is Docker Hub, the one registry that is dialled at another name than images carry.
    pub fn is_docker_hub(&self) -> bool {
        self.as_str() == DOCKER_HUB
    }

    /// The host that clients dial for its API; without brackets around an IPv6 address.
    pub fn dialled(&self) -> &str {
        if self.is_docker_hub() { DOCKER_HUB_API } else { self.host() }
    }

    /// The registry whose API clients dial at `host` or `host:port`. What else is at Docker Hub's
    /// names, a web site and a search, is no registry.
    pub fn dialled_at(authority: &str) -> Option<Self> {
        let host: Self = authority.parse().ok()?;
        let name = authority.rsplit_once(":443").map_or(authority, |(name, _)| name);
        (!host.is_docker_hub() || name.eq_ignore_ascii_case(DOCKER_HUB_API)).then_some(host)
    }

    /// The repository that is meant where a person writes this name: Docker's own images have one
    /// component, and lie below `library/`.
    pub fn repository<'a>(&self, written: &'a str) -> Cow<'a, str> {
        if self.is_docker_hub() && !written.contains('/') {
            return Cow::Owned(format!("library/{written}"));
        }
        Cow::Borrowed(written)
    }
}

/// Docker Hub in image names.
const DOCKER_HUB: &str = "docker.io";

/// Docker Hub's API.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// Docker Hub in the settings of old clients.
const DOCKER_HUB_INDEX: &str = "index.docker.io";

impl FromStr for RegistryHost {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let text = text.to_ascii_lowercase();
        let text = text.strip_suffix(":443").unwrap_or(&text);
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // An IPv6 address has many spellings, and one that is canonical (RFC 5952).
        let host = match bare.map(str::parse::<std::net::Ipv6Addr>) {
            Some(Ok(address)) => format!("[{address}]"),
            None if is_host_name(host) => host.to_owned(),
            Some(Err(_)) | None => return Err(ParseNameError::Registry),
        };
        match port.map(str::parse::<u16>) {
            None if [DOCKER_HUB_API, DOCKER_HUB_INDEX].contains(&&host[..]) => Ok(Self(DOCKER_HUB.into())),
            None => Ok(Self(host.into())),
            Some(Ok(port)) if port != 0 => Ok(Self(format!("{host}:{port}").into())),
            Some(_) => Err(ParseNameError::Registry),
        }
    }
}

/// A repository's name (distribution spec, "Pulling manifests"): path components of
/// lowercase letters, digits and separators, at most 255 characters together.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        if text.len() > MAX_REPOSITORY_LEN || !text.split('/').all(is_repository_component) {
            return Err(ParseNameError::Repository);
        }
        Ok(Self(text.into()))
    }
}

fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_repository_component(component: &str) -> bool {
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_word(first) || !is_word(last) {
        return false;
    }
    bytes.split(is_word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

/// The distribution spec asks clients to stay below this together with the host.
const MAX_REPOSITORY_LEN: usize = 255;

impl TryFrom<String> for RegistryHost {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        text.parse()
    }
}

impl From<RegistryHost> for String {
    fn from(host: RegistryHost) -> Self {
        host.0.as_ref().to_owned()
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no registry or repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    /// Not `host` or `host:port`.
    #[error("a registry reads host or host:port, without a scheme or path")]
    Registry,
    /// Not a repository.
    #[error("a repository has components of a-z, 0-9 and single separators, at most 255 characters")]
    Repository,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_https_port_is_the_same_registry() {
        let with_port: RegistryHost = "Harbor.Example.com:443".parse().unwrap();
        assert_eq!(with_port, "harbor.example.com".parse().unwrap());
        assert_eq!((with_port.host(), with_port.port()), ("harbor.example.com", 443));
    }

    #[test]
    fn docker_hub_is_one_registry_by_all_its_names() {
        for text in [
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "Docker.IO:443",
            "registry-1.docker.io:443",
        ] {
            let hub: RegistryHost = text.parse().unwrap();
            assert_eq!((hub.as_str(), hub.dialled(), hub.port()), ("docker.io", "registry-1.docker.io", 443));
            assert!(hub.is_docker_hub(), "{text}");
            assert_eq!(
                (hub.repository("alpine"), hub.repository("a/b")),
                ("library/alpine".into(), "a/b".into())
            );
        }
        for text in ["docker.io:5000", "hub.docker.io", "reg.test", "registry-2.docker.io", "docker.io.test"]
        {
            let other: RegistryHost = text.parse().unwrap();
            assert!(!other.is_docker_hub() && other.as_str() == text, "{text}");
            assert_eq!((other.dialled(), other.repository("app")), (other.host(), "app".into()));
        }
    }

    #[test]
    fn only_the_api_of_docker_hub_is_dialled_as_a_registry() {
        for (authority, registry) in [
            ("registry-1.docker.io:443", Some("docker.io")),
            ("Registry-1.docker.io", Some("docker.io")),
            ("docker.io:443", None),
            ("index.docker.io:443", None),
            ("reg.test:443", Some("reg.test")),
            ("reg.test:5000", Some("reg.test:5000")),
            ("[::1]:443", Some("[::1]")),
            ("a/b", None),
        ] {
            let dialled = RegistryHost::dialled_at(authority);
            assert_eq!(dialled.as_ref().map(RegistryHost::as_str), registry, "{authority}");
        }
    }

    #[test]
    fn a_registry_may_have_a_port_or_be_an_address() {
        for (text, host, port) in [
            ("reg.test:5000", "reg.test", 5000),
            ("10.0.0.1:80", "10.0.0.1", 80),
            ("[::1]:5000", "::1", 5000),
            ("[::1]", "::1", 443),
        ] {
            let registry: RegistryHost = text.parse().unwrap();
            assert_eq!((registry.host(), registry.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_registry_is_refused() {
        for text in ["", "https://a", "a/b", "a:0", "a:99999", "a b", ".a", "-a.b", "::1", "[::1"] {
            assert_eq!(text.parse::<RegistryHost>(), Err(ParseNameError::Registry), "{text}");
        }
    }

    #[test]
    fn repositories_follow_the_spec() {
        for text in ["app", "app/web", "a.b/c__d/e---f", "library/redis7"] {
            assert!(text.parse::<RepositoryName>().is_ok(), "{text}");
        }
        for text in ["", "App", "a//b", "a..b", "a___b", "/a", "a/", "a/../b", "a b", &"a".repeat(256)] {
            assert_eq!(text.parse::<RepositoryName>(), Err(ParseNameError::Repository), "{text}");
        }
    }

    proptest! {
        #[test]
        fn names_read_back_as_they_print(text in "\\PC{0,40}|[a-z0-9.:/_\\[\\]-]{0,40}") {
            if let Ok(host) = text.parse::<RegistryHost>() {
                prop_assert_eq!(host.to_string().parse::<RegistryHost>().unwrap(), host);
            }
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(name.as_str() == text && !text.contains("..") && !text.starts_with('/'));
            }
        }
    }
}
