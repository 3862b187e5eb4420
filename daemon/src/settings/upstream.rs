//! One registry: what serves it, and what it wants to be kept.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use flotilla_proto::wire::manager as wire;
use flotilla_proto::{ParseLabelError, RegistryHost, TrustName};

use super::{Endpoint, ParseCapError, ParseProxyError, ParseWeightError};

/// One registry under the host that image names carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `host` or `host:port`, as in image names.
    pub host: RegistryHost,
    /// What serves it; never empty, never standbys alone. Those that are none share the load by weight,
    /// standbys are asked in this order while they fail.
    pub endpoints: Vec<Endpoint>,
    /// When a blob's bytes go out to clients. What holds, [`Self::releases_verified`] says.
    pub release: Release,
    /// Whether it fills itself from another registry: it may then say a length that is none, or
    /// store an error page as a blob.
    pub proxy_cache: bool,
    /// Whether every full GET of a manifest is forwarded, so that the registry's pull counts,
    /// retention and audit stay right.
    pub count_pulls: bool,
    /// What is served while it is unreachable.
    pub offline: Offline,
    /// How long its word on a client holds.
    pub grants: GrantLife,
    /// Those of the same name share trust with it: what one gave may be shown to the others' clients once these hold
    /// it. `None`: with nobody.
    pub trust: Option<TrustName>,
}

impl Upstream {
    /// A registry about which nothing but its endpoints is said.
    ///
    /// # Errors
    ///
    /// If no endpoint would be asked.
    pub fn new(host: RegistryHost, endpoints: Vec<Endpoint>) -> Result<Self, ParseRegistryError> {
        if endpoints.is_empty() {
            return Err(ParseRegistryError::NoEndpoint);
        }
        if endpoints.iter().all(|endpoint| endpoint.standby) {
            return Err(ParseRegistryError::OnlyStandbys);
        }
        Ok(Self {
            host,
            endpoints,
            release: Release::default(),
            proxy_cache: false,
            count_pulls: true,
            offline: Offline::default(),
            grants: GrantLife::default(),
            trust: None,
        })
    }

    /// Whether no byte of a blob goes out before its SHA-256 is right: asked for, or because
    /// what a proxy cache sends is not to be trusted before.
    pub fn releases_verified(&self) -> bool {
        self.proxy_cache || self.release == Release::Verified
    }

    /// Parses a registry, strictly: the manager refuses what this refuses.
    ///
    /// # Errors
    ///
    /// Names the part that is wrong.
    pub fn from_wire(registry: &wire::Registry) -> Result<Self, ParseRegistryError> {
        let host = registry
            .host
            .parse()
            .map_err(|source| ParseRegistryError::Host { host: registry.host.clone(), source })?;
        let endpoints = registry.endpoints.iter().map(Endpoint::from_wire).collect::<Result<_, _>>()?;
        let unknown = |_| ParseRegistryError::Release { number: registry.release };
        Ok(Self {
            release: wire::Release::try_from(registry.release).map_err(unknown)?.into(),
            proxy_cache: registry.proxy_cache,
            count_pulls: !registry.uncounted_pulls,
            offline: Offline::from_wire(registry.offline_granted.as_ref())?,
            grants: if registry.strict_grants { GrantLife::Strict } else { GrantLife::Cached },
            trust: trust(&registry.trust)?,
            ..Self::new(host, endpoints)?
        })
    }

    /// The registry as it is sent and kept.
    pub fn to_wire(&self) -> wire::Registry {
        wire::Registry {
            host: self.host.to_string(),
            endpoints: self.endpoints.iter().map(Endpoint::to_wire).collect(),
            release: wire::Release::from(self.release).into(),
            proxy_cache: self.proxy_cache,
            uncounted_pulls: !self.count_pulls,
            offline_granted: self.offline.to_wire(),
            strict_grants: self.grants == GrantLife::Strict,
            trust: self.trust.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

fn trust(text: &str) -> Result<Option<TrustName>, ParseRegistryError> {
    let name = (!text.is_empty()).then(|| text.parse()).transpose();
    name.map_err(|source| ParseRegistryError::Trust { name: text.to_owned(), source })
}

/// How long a registry's word that a client may read holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GrantLife {
    /// As long as the credential can be trusted: a token's own life, 30 s for a password (docs/design.md §7).
    #[default]
    Cached,
    /// For this one request: the registry is asked about each blob, at the price of a round trip.
    Strict,
}

impl FromStr for GrantLife {
    type Err = ParseGrantLifeError;

    fn from_str(text: &str) -> Result<Self, ParseGrantLifeError> {
        match text {
            "cached" => Ok(Self::Cached),
            "strict" => Ok(Self::Strict),
            _ => Err(ParseGrantLifeError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for GrantLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cached => "cached",
            Self::Strict => "strict",
        })
    }
}

/// Neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is neither `cached` nor `strict`")]
pub struct ParseGrantLifeError {
    text: String,
}

/// When a blob's bytes go out to clients. The last piece never does before the SHA-256 is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Release {
    /// Piece by piece, as they come.
    #[default]
    Streaming,
    /// None before the SHA-256 is right.
    Verified,
}

impl FromStr for Release {
    type Err = ParseReleaseError;

    fn from_str(text: &str) -> Result<Self, ParseReleaseError> {
        match text {
            "streaming" => Ok(Self::Streaming),
            "verified" => Ok(Self::Verified),
            _ => Err(ParseReleaseError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Streaming => "streaming",
            Self::Verified => "verified",
        })
    }
}

impl From<wire::Release> for Release {
    fn from(release: wire::Release) -> Self {
        match release {
            wire::Release::Streaming => Self::Streaming,
            wire::Release::Verified => Self::Verified,
        }
    }
}

impl From<Release> for wire::Release {
    fn from(release: Release) -> Self {
        match release {
            Release::Streaming => Self::Streaming,
            Release::Verified => Self::Verified,
        }
    }
}

/// What is served while a registry is unreachable: no connection, or 5xx. A registry that
/// answers 401, 403, 404 or 412 is reached, and obeyed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offline {
    /// Nothing that needs its word.
    #[default]
    Refuse,
    /// What it granted before, to whom it granted it.
    Granted {
        /// How much longer than otherwise a grant lives; whole seconds, at most
        /// [`Offline::LONGEST`].
        longer: Duration,
    },
}

impl Offline {
    /// A day.
    pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

    /// Serves what was granted, grants living so much longer.
    ///
    /// # Errors
    ///
    /// If that is more than [`Self::LONGEST`], or no whole number of seconds.
    pub fn granted(longer: Duration) -> Result<Self, OfflineForError> {
        if longer > Self::LONGEST {
            return Err(OfflineForError::TooLong { longer });
        }
        if longer.subsec_nanos() != 0 {
            return Err(OfflineForError::Fraction);
        }
        Ok(Self::Granted { longer })
    }

    fn from_wire(granted: Option<&wire::OfflineGranted>) -> Result<Self, OfflineForError> {
        granted.map_or(Ok(Self::Refuse), |granted| Self::granted(Duration::from_secs(granted.longer_seconds)))
    }

    fn to_wire(self) -> Option<wire::OfflineGranted> {
        match self {
            Self::Refuse => None,
            Self::Granted { longer } => Some(wire::OfflineGranted { longer_seconds: longer.as_secs() }),
        }
    }
}

/// Why a registry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRegistryError {
    /// Not a host as image names carry it.
    #[error("registry `{host}`: {source}")]
    Host {
        /// What stands there.
        host: String,
        /// What is wrong with it.
        source: flotilla_proto::ParseNameError,
    },
    /// Nothing serves it.
    #[error("a registry needs at least one endpoint")]
    NoEndpoint,
    /// Nothing serves it while all is well.
    #[error("a registry needs at least one endpoint that is no standby")]
    OnlyStandbys,
    /// Not an endpoint's URL.
    #[error("endpoint `{url}`: a URL here reads https://host[:port] or http://host[:port], without a path")]
    Url {
        /// What stands there.
        url: String,
    },
    /// Not an address to dial.
    #[error("address `{address}`: an address here reads ip:port")]
    Address {
        /// What stands there.
        address: String,
    },
    /// No CA in the CA's place.
    #[error("endpoint `{url}`: the CA file holds no certificate in PEM")]
    Ca {
        /// The endpoint's URL.
        url: String,
    },
    /// Not a share of the load.
    #[error("endpoint `{url}`: weight: {source}")]
    Weight {
        /// The endpoint's URL.
        url: String,
        /// What is wrong.
        source: ParseWeightError,
    },
    /// Not a proxy.
    #[error("endpoint `{url}`: proxy: {source}")]
    Proxy {
        /// The endpoint's URL.
        url: String,
        /// What is wrong.
        source: ParseProxyError,
    },
    /// Not a cap of its bandwidth.
    #[error("endpoint `{url}`: limit: {source}")]
    Cap {
        /// The endpoint's URL.
        url: String,
        /// What is wrong.
        source: ParseCapError,
    },
    /// A release that this version does not know.
    #[error("there is no release of number {number}")]
    Release {
        /// What stands there.
        number: i32,
    },
    /// No name of registries that share trust.
    #[error("trust `{name}`: {source}")]
    Trust {
        /// What stands there.
        name: String,
        /// What is wrong with it.
        source: ParseLabelError,
    },
    /// Offline for a time that may not be.
    #[error(transparent)]
    OfflineFor(#[from] OfflineForError),
}

/// Not one of the releases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is neither `streaming` nor `verified`")]
pub struct ParseReleaseError {
    text: String,
}

/// Why grants cannot live so much longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfflineForError {
    /// Whom a registry refuses would be served too long.
    #[error("offline-for is at most 24h, not {}", humantime::format_duration(*longer))]
    TooLong {
        /// What was asked for.
        longer: Duration,
    },
    /// Less than a second of it.
    #[error("offline-for is a whole number of seconds")]
    Fraction,
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::LazyLock;

    use proptest::option;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::settings::cap::tests::any_cap;

    #[test]
    fn a_registry_of_an_earlier_version_reads_as_the_defaults() {
        let kept = b"\x0a\x08reg.test\x12\x26\x0a\x10https://reg.test\x1a\x1210.255.255.10:5000";
        let upstream = Upstream::from_wire(&wire::Registry::decode(&kept[..]).unwrap()).unwrap();
        let address = Some("10.255.255.10:5000".parse().unwrap());
        let endpoint = Endpoint { address, ..Endpoint::new("https://reg.test".parse().unwrap()) };
        assert_eq!(upstream, Upstream::new("reg.test".parse().unwrap(), vec![endpoint]).unwrap());
        assert!(upstream.count_pulls && !upstream.releases_verified());
    }

    #[test]
    fn a_proxy_cache_releases_verified_whatever_else_is_said() {
        for (release, proxy_cache, verified) in [
            (Release::Streaming, false, false),
            (Release::Streaming, true, true),
            (Release::Verified, false, true),
        ] {
            let upstream = Upstream { release, proxy_cache, ..plain() };
            assert_eq!(upstream.releases_verified(), verified);
        }
    }

    #[test]
    fn a_registry_says_what_is_wrong_with_it() {
        let error = |adjust: &dyn Fn(&mut wire::Registry)| {
            let mut registry = plain().to_wire();
            adjust(&mut registry);
            Upstream::from_wire(&registry).unwrap_err().to_string()
        };
        let longer = |longer_seconds| Some(wire::OfflineGranted { longer_seconds });
        assert_eq!(error(&|registry| registry.endpoints.clear()), "a registry needs at least one endpoint");
        assert_eq!(
            error(&|registry| registry.endpoints[0].standby = true),
            "a registry needs at least one endpoint that is no standby"
        );
        assert_eq!(error(&|registry| registry.release = 7), "there is no release of number 7");
        assert_eq!(
            error(&|registry| registry.offline_granted = longer(86_401)),
            "offline-for is at most 24h, not 1day 1s"
        );
    }

    #[test]
    fn grants_live_longer_by_whole_seconds_up_to_a_day() {
        assert!(Offline::granted(Offline::LONGEST).is_ok());
        let fraction = Offline::granted(Duration::from_millis(1_500));
        assert_eq!(fraction, Err(OfflineForError::Fraction));
    }

    fn plain() -> Upstream {
        let endpoint = Endpoint::new("https://reg.test".parse().unwrap());
        Upstream::new("reg.test".parse().unwrap(), vec![endpoint]).unwrap()
    }

    static CA_PEM: LazyLock<String> =
        LazyLock::new(|| rcgen::generate_simple_self_signed(["reg.test".to_owned()]).unwrap().cert.pem());

    fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        let url =
            prop_oneof!["https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?", Just("https://[::1]:5000".to_owned())];
        let proxy = option::of("http://[a-z]{1,9}(:[1-9][0-9]{0,3})?");
        let address = option::of(any::<(std::net::IpAddr, u16)>().prop_map(SocketAddr::from));
        let caps = proptest::collection::vec(any_cap(), 0..4);
        let parts = (url, any::<bool>(), address, 1_u32..=100, any::<bool>(), proxy, caps);
        parts.prop_map(|(url, ca, address, weight, standby, proxy, caps)| Endpoint {
            url: url.parse().unwrap(),
            ca_pem: ca.then(|| CA_PEM.clone()),
            address,
            weight: weight.try_into().unwrap(),
            standby,
            proxy: proxy.map(|proxy| proxy.parse().unwrap()),
            caps,
        })
    }

    fn any_upstream() -> impl Strategy<Value = Upstream> {
        let endpoints = proptest::collection::vec(any_endpoint(), 1..4);
        let offline = option::of(0_u64..=86_400).prop_map(|longer| {
            longer.map_or(Offline::Refuse, |longer| Offline::granted(Duration::from_secs(longer)).unwrap())
        });
        let release = prop_oneof![Just(Release::Streaming), Just(Release::Verified)];
        let grants = prop_oneof![Just(GrantLife::Cached), Just(GrantLife::Strict)];
        (endpoints, release, any::<(bool, bool)>(), offline, grants).prop_map(
            |(mut endpoints, release, (proxy_cache, count_pulls), offline, grants)| {
                endpoints[0].standby = false;
                Upstream { endpoints, release, proxy_cache, count_pulls, offline, grants, ..plain() }
            },
        )
    }

    proptest! {
        #[test]
        fn a_registry_that_is_sent_and_kept_is_the_same(upstream in any_upstream()) {
            let bytes = upstream.to_wire().encode_to_vec();
            let kept = wire::Registry::decode(&bytes[..]).unwrap();
            prop_assert_eq!(Upstream::from_wire(&kept), Ok(upstream));
        }
    }
}
