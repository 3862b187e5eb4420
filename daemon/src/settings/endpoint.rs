//! One address that serves an upstream, and how a seed is to use it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use flotilla_proto::wire::manager as wire;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Cap, EndpointUrl, ParseRegistryError, ProxyUrl};

/// One address that serves an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to send requests.
    pub url: EndpointUrl,
    /// CA certificates in PEM, trusted beside the system's roots.
    pub ca_pem: Option<String>,
    /// Dialled instead of what the URL's host resolves to.
    pub address: Option<SocketAddr>,
    /// Its share of the load.
    pub weight: Weight,
    /// Whether it is asked only while the others fail.
    pub standby: bool,
    /// What it is reached through.
    pub proxy: Option<ProxyUrl>,
    /// What a seed reads from it at most; which holds when, [`Cap::in_force`] says.
    pub caps: Vec<Cap>,
}

impl Endpoint {
    /// An endpoint about which nothing but its URL is said.
    pub fn new(url: EndpointUrl) -> Self {
        Self {
            url,
            ca_pem: None,
            address: None,
            weight: Weight::default(),
            standby: false,
            proxy: None,
            caps: Vec::new(),
        }
    }

    pub(super) fn from_wire(endpoint: &wire::Endpoint) -> Result<Self, ParseRegistryError> {
        let url = || endpoint.url.clone();
        let caps = endpoint.caps.iter().map(Cap::from_wire).collect::<Result<_, _>>();
        Ok(Self {
            url: endpoint.url.parse()?,
            ca_pem: ca_from_wire(endpoint)?,
            address: address_from_wire(&endpoint.address)?,
            weight: weight_from_wire(endpoint.weight)
                .map_err(|source| ParseRegistryError::Weight { url: url(), source })?,
            standby: endpoint.standby,
            proxy: said(&endpoint.proxy)
                .map(str::parse)
                .transpose()
                .map_err(|source| ParseRegistryError::Proxy { url: url(), source })?,
            caps: caps.map_err(|source| ParseRegistryError::Cap { url: url(), source })?,
        })
    }

    pub(super) fn to_wire(&self) -> wire::Endpoint {
        wire::Endpoint {
            url: self.url.to_string(),
            ca_pem: self.ca_pem.clone().unwrap_or_default(),
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
            weight: self.weight.into(),
            standby: self.standby,
            proxy: self.proxy.as_ref().map(ProxyUrl::to_string).unwrap_or_default(),
            caps: self.caps.iter().map(|cap| cap.to_wire()).collect(),
        }
    }
}

/// An endpoint's share of the load among those that are no standbys: 1 to 100, 1 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// The greatest.
    pub const MAX: Self = Self(100);
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl TryFrom<u32> for Weight {
    type Error = ParseWeightError;

    fn try_from(number: u32) -> Result<Self, ParseWeightError> {
        if (1..=Self::MAX.0).contains(&number) { Ok(Self(number)) } else { Err(ParseWeightError) }
    }
}

impl FromStr for Weight {
    type Err = ParseWeightError;

    fn from_str(text: &str) -> Result<Self, ParseWeightError> {
        text.parse::<u32>().map_err(|_| ParseWeightError)?.try_into()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Not said is empty on the wire.
fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn address_from_wire(text: &str) -> Result<Option<SocketAddr>, ParseRegistryError> {
    let malformed = |_| ParseRegistryError::Address { address: text.to_owned() };
    said(text).map(str::parse).transpose().map_err(malformed)
}

fn ca_from_wire(endpoint: &wire::Endpoint) -> Result<Option<String>, ParseRegistryError> {
    match said(&endpoint.ca_pem) {
        Some(pem) if !holds_certificates(pem) => Err(ParseRegistryError::Ca { url: endpoint.url.clone() }),
        pem => Ok(pem.map(str::to_owned)),
    }
}

/// Whether the PEM holds certificates that can be trusted as roots, and nothing broken.
fn holds_certificates(pem: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    let all_usable = CertificateDer::pem_slice_iter(pem.as_bytes())
        .all(|certificate| certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()));
    all_usable && !roots.is_empty()
}

fn weight_from_wire(number: u32) -> Result<Weight, ParseWeightError> {
    if number == 0 { Ok(Weight::default()) } else { number.try_into() }
}

/// Not a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a weight is 1 to 100")]
pub struct ParseWeightError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_what_is_wrong_with_it() {
        let error = |adjust: &dyn Fn(&mut wire::Endpoint)| {
            let mut endpoint = wire::Endpoint { url: "https://reg.test".into(), ..Default::default() };
            adjust(&mut endpoint);
            Endpoint::from_wire(&endpoint).unwrap_err().to_string()
        };
        assert_eq!(
            error(&|endpoint| endpoint.ca_pem = "no certificate".into()),
            "endpoint `https://reg.test`: the CA file holds no certificate in PEM"
        );
        assert_eq!(
            error(&|endpoint| endpoint.address = "nowhere".into()),
            "address `nowhere`: an address here reads ip:port"
        );
        assert_eq!(
            error(&|endpoint| endpoint.weight = 101),
            "endpoint `https://reg.test`: weight: a weight is 1 to 100"
        );
        assert_eq!(
            error(&|endpoint| endpoint.proxy = "https://proxy".into()),
            "endpoint `https://reg.test`: proxy: `https://proxy`: a proxy's URL reads http://host[:port], without a path"
        );
        assert_eq!(
            error(&|endpoint| endpoint.caps = vec![wire::Cap { bytes_per_s: 1, hours: None }]),
            "endpoint `https://reg.test`: limit: a bandwidth is at least 1 MB a second, not 1 B"
        );
        let hours = Some(wire::Hours { from_minute: 1, to_minute: 65_536 });
        assert_eq!(
            error(&|endpoint| endpoint.caps = vec![wire::Cap { bytes_per_s: 1_000_000, hours }]),
            "endpoint `https://reg.test`: limit: a day's minutes are 0 to 1439"
        );
    }

    #[test]
    fn an_endpoint_s_url_is_a_root_of_http() {
        for url in [
            "ftp://a",
            "a:5000",
            "https://",
            "https://u:p@a",
            "https://a/v2",
            "https://a?b",
            "https://a:0",
            "https://a:99999",
        ] {
            let endpoint = wire::Endpoint { url: url.into(), ..Default::default() };
            let error = Endpoint::from_wire(&endpoint).unwrap_err();
            assert_eq!(error, ParseRegistryError::Url { url: url.into() });
        }
    }

    #[test]
    fn a_weight_is_1_to_100() {
        for text in ["0", "101", "-1", "1.5", "", "heavy"] {
            assert_eq!(text.parse::<Weight>(), Err(ParseWeightError), "{text}");
        }
        assert_eq!("100".parse(), Ok(Weight::MAX));
    }
}
