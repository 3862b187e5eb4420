//! Endpoints as the command line takes them: `--url` for the plain ones, `--endpoint` for the
//! others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flotilla_daemon::settings::{Cap, Endpoint, EndpointUrl, ParseRegistryError, ProxyUrl, Weight};

use super::super::CliError;
use super::keys::{Key, KeyError};

/// What serves a registry.
#[derive(Debug, Clone, clap::Args)]
pub struct EndpointArgs {
    /// An endpoint that serves it, as in https://host:port; several share the load
    #[arg(long = "url", value_name = "URL", required_unless_present = "endpoints")]
    urls: Vec<EndpointUrl>,
    /// CA certificates in PEM that its endpoints' certificates may come from, beside
    /// the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Dial this address instead of what the endpoint's name resolves to
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// An endpoint with all that can be said of it; several share the load by weight, standbys take over in their order
    ///
    /// A URL, and behind it, between commas:
    /// {n}  ca=FILE            as --ca, for this endpoint
    /// {n}  address=IP:PORT    as --address, for this endpoint
    /// {n}  weight=N           its share of the load, 1 to 100 (default: 1)
    /// {n}  standby            asked only while the others fail; one endpoint at least is none
    /// {n}  proxy=http://H:P   the HTTP proxy that a seed reaches it through; without credentials:
    /// {n}                     let the proxy know the seed by its address
    /// {n}  limit=50MB         what a seed reads from it at most, a second; with hours of the
    /// {n}                     seed's local time as in limit=50MB@08:00-18:00, over midnight as in
    /// {n}                     limit=50MB@22:00-06:00; several limits: one with hours goes before
    /// {n}                     one without, and of several such the least holds
    #[arg(
        long = "endpoint",
        value_name = "URL[,KEY=VALUE]...",
        conflicts_with_all = ["urls", "ca", "address"]
    )]
    endpoints: Vec<EndpointSpec>,
}

impl EndpointArgs {
    /// Reads the CA files.
    pub(super) fn load(&self) -> Result<Vec<Endpoint>, CliError> {
        if self.urls.len() > 1 && self.address.is_some() {
            return Err(CliError::Usage(
                "--address goes with one --url: several endpoints at one address are one",
            ));
        }
        if self.ca.is_some() && !self.urls.iter().any(EndpointUrl::is_https) {
            return Err(CliError::Usage("--ca is for https:// endpoints"));
        }
        let plain = self.urls.iter().map(|url| EndpointSpec {
            // An endpoint without TLS has no certificate to check.
            ca: self.ca.clone().filter(|_| url.is_https()),
            address: self.address,
            ..EndpointSpec::new(url.clone())
        });
        plain.chain(self.endpoints.iter().cloned()).map(|endpoint| endpoint.load()).collect()
    }
}

/// An endpoint as one argument says it, `URL[,KEY=VALUE]…`; its CA file is not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    url: EndpointUrl,
    ca: Option<PathBuf>,
    address: Option<SocketAddr>,
    weight: Option<Weight>,
    standby: bool,
    proxy: Option<ProxyUrl>,
    caps: Vec<Cap>,
}

impl EndpointSpec {
    /// The keys that [`Self::take`] knows.
    pub const KEYS: [&'static str; 6] = ["ca", "address", "weight", "standby", "proxy", "limit"];

    /// An endpoint about which nothing but its URL is said.
    pub fn new(url: EndpointUrl) -> Self {
        Self { url, ca: None, address: None, weight: None, standby: false, proxy: None, caps: Vec::new() }
    }

    /// Takes a key; whether it is one of an endpoint's.
    ///
    /// # Errors
    ///
    /// If it is, and its value is missing, given twice or does not parse.
    pub fn take(&mut self, key: Key<'_>) -> Result<bool, KeyError> {
        match key.name() {
            "ca" => key.set(&mut self.ca)?,
            "address" => key.set(&mut self.address)?,
            "weight" => key.set(&mut self.weight)?,
            "standby" => key.raise(&mut self.standby)?,
            "proxy" => key.set(&mut self.proxy)?,
            "limit" => key.push(&mut self.caps)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the CA file.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn load(&self) -> Result<Endpoint, CliError> {
        Ok(Endpoint {
            url: self.url.clone(),
            ca_pem: self.ca.as_deref().map(read).transpose()?,
            address: self.address,
            weight: self.weight.unwrap_or_default(),
            standby: self.standby,
            proxy: self.proxy.clone(),
            caps: self.caps.clone(),
        })
    }
}

impl FromStr for EndpointSpec {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let mut parts = text.split(',');
        let mut endpoint = Self::new(parts.next().unwrap_or_default().parse()?);
        for key in parts.map(Key::of) {
            if !endpoint.take(key)? {
                return Err(key.unknown(&Self::KEYS).into());
            }
        }
        Ok(endpoint)
    }
}

fn read(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file).map_err(|source| CliError::Read { file: file.to_owned(), source })
}

/// Why a text is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum ParseEndpointError {
    /// Its URL is none.
    #[error(transparent)]
    Url(#[from] ParseRegistryError),
    /// One of its keys.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_all_in_one_argument() {
        let text = "https://a.internal,weight=2,standby,address=10.0.0.9:443,\
            proxy=http://proxy.internal:3128,limit=50MB@08:00-18:00,limit=100 MB";
        let endpoint = text.parse::<EndpointSpec>().unwrap().load().unwrap();
        let expected = Endpoint {
            address: Some("10.0.0.9:443".parse().unwrap()),
            weight: 2_u32.try_into().unwrap(),
            standby: true,
            proxy: Some("http://proxy.internal:3128".parse().unwrap()),
            caps: vec!["50 MB@08:00-18:00".parse().unwrap(), "100 MB".parse().unwrap()],
            ..Endpoint::new("https://a.internal".parse().unwrap())
        };
        assert_eq!(endpoint, expected);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let error = |text: &str| text.parse::<EndpointSpec>().unwrap_err().to_string();
        for (keys, expected) in [
            (
                "wieght=2",
                "unknown key `wieght`; did you mean `weight`? The keys here are ca, address, weight,",
            ),
            (
                "colour=2",
                "unknown key `colour`; the keys here are ca, address, weight, standby, proxy, limit",
            ),
            ("weight=0", "weight: a weight is 1 to 100"),
            ("weight", "`weight` needs a value: weight=…"),
            ("weight=1,weight=2", "`weight` is given twice"),
            ("standby=true", "`standby` takes no value"),
            ("limit=50MB@8-18", "limit: `8-18` are no hours"),
            ("limit=1kB", "limit: a bandwidth is at least 1 MB a second"),
            ("address=nowhere", "address: invalid socket address"),
            ("proxy=http://u:s3cret@proxy", "proxy: a proxy's URL holds no credentials"),
        ] {
            let error = error(&format!("https://a.test,{keys}"));
            assert!(error.starts_with(expected) && !error.contains("s3cret"), "{keys}: {error}");
        }
        assert!(error("a.test,weight=2").starts_with("endpoint `a.test`: a URL here reads"));
    }

    #[test]
    fn a_ca_file_that_is_missing_is_named() {
        let endpoint: EndpointSpec = "https://a.test,ca=/no/such/ca.pem".parse().unwrap();
        assert!(endpoint.load().unwrap_err().to_string().starts_with("read /no/such/ca.pem: "));
    }
}
