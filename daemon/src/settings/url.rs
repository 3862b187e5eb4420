//! URLs of endpoints and of the proxies before them: a scheme, a host, a port, nothing else.

use std::fmt;
use std::str::FromStr;

use flotilla_proto::RegistryHost;
use http::Uri;

use super::ParseRegistryError;
use crate::authority::host_and_port;

/// `https://host[:port]` or `http://host[:port]`: no path, no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    uri: Uri,
}

impl EndpointUrl {
    /// Whether requests go over TLS.
    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The host, with brackets around an IPv6 address.
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The port, written or the scheme's.
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// The host and, if one is written, the port, as the `Host` header has them.
    pub fn authority(&self) -> &str {
        authority(&self.uri)
    }
}

impl FromStr for EndpointUrl {
    type Err = ParseRegistryError;

    fn from_str(text: &str) -> Result<Self, ParseRegistryError> {
        let uri = bare(text, &["http", "https"]);
        uri.map(dialled)
            .map(|uri| Self { uri })
            .ok_or_else(|| ParseRegistryError::Url { url: text.to_owned() })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.uri.scheme_str().unwrap_or_default(), self.authority())
    }
}

/// `http://host[:port]`: a proxy that a seed reaches an endpoint through. It never holds
/// credentials, which settings are no place for: every daemon of a region gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    uri: Uri,
}

impl ProxyUrl {
    /// The host, with brackets around an IPv6 address.
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The port, 80 unless written.
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(80)
    }
}

impl FromStr for ProxyUrl {
    type Err = ParseProxyError;

    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        // Before anything else, for what does not parse is shown.
        if text.contains('@') {
            return Err(ParseProxyError::Credentials);
        }
        let uri = bare(text, &["http"]);
        uri.map(|uri| Self { uri }).ok_or_else(|| ParseProxyError::Form { url: text.to_owned() })
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", authority(&self.uri))
    }
}

/// A URL of one of these schemes with nothing but a host and a port.
fn bare(text: &str, schemes: &[&str]) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let plain = uri.authority().is_some_and(|authority| host_and_port(authority).is_some());
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let known = uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
    (plain && bare && known).then_some(uri)
}

/// `https://docker.io` is a web site: people who write it mean what its images are read from.
fn dialled(uri: Uri) -> Uri {
    let is_https = uri.scheme_str() == Some("https");
    let registry = authority(&uri).parse::<RegistryHost>().ok();
    let hub = registry.filter(|registry| is_https && registry.is_docker_hub());
    let url = hub.and_then(|hub| format!("https://{}", hub.dialled()).parse().ok());
    url.unwrap_or(uri)
}

fn authority(uri: &Uri) -> &str {
    uri.authority().map_or("", http::uri::Authority::as_str)
}

/// Why a text is no proxy's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseProxyError {
    /// Not `http://host[:port]`.
    #[error("`{url}`: a proxy's URL reads http://host[:port], without a path")]
    Form {
        /// What stands there.
        url: String,
    },
    /// A user name, perhaps with a password; not shown.
    #[error(
        "a proxy's URL holds no credentials, for all daemons of a region get it: let the proxy know this seed \
         by its address, with an allow-list"
    )]
    Credentials,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_knows_its_port() {
        for (url, port, https) in
            [("https://a", 443, true), ("http://a", 80, false), ("http://[::1]:5000/", 5000, false)]
        {
            let url: EndpointUrl = url.parse().unwrap();
            assert_eq!((url.port(), url.is_https()), (port, https));
        }
    }

    #[test]
    fn docker_hub_is_dialled_where_its_images_are() {
        for (text, url) in [
            ("https://docker.io", "https://registry-1.docker.io"),
            ("https://index.docker.io:443", "https://registry-1.docker.io"),
            ("https://registry-1.docker.io", "https://registry-1.docker.io"),
            ("https://docker.io:5000", "https://docker.io:5000"),
            ("http://docker.io", "http://docker.io"),
            ("https://mirror.test", "https://mirror.test"),
        ] {
            assert_eq!(text.parse::<EndpointUrl>().unwrap().to_string(), url);
        }
    }

    #[test]
    fn a_proxy_has_a_host_and_a_port() {
        for (text, host, port, printed) in [
            ("http://proxy.internal:3128", "proxy.internal", 3128, "http://proxy.internal:3128"),
            ("http://10.0.0.1/", "10.0.0.1", 80, "http://10.0.0.1"),
            ("http://[::1]:3128", "[::1]", 3128, "http://[::1]:3128"),
        ] {
            let proxy: ProxyUrl = text.parse().unwrap();
            assert_eq!((proxy.host(), proxy.port(), &*proxy.to_string()), (host, port, printed));
        }
    }

    #[test]
    fn a_proxy_with_credentials_is_refused_without_showing_them() {
        for text in ["http://u:s3cret@proxy:3128", "u:s3cret@proxy:3128", "http://u:s3 cret@proxy"] {
            let error = text.parse::<ProxyUrl>().unwrap_err().to_string();
            assert!(error.contains("allow-list") && !error.contains("cret"), "{error}");
        }
        for text in ["", "https://proxy:3128", "proxy:3128", "http://proxy/path", "http://proxy:0"] {
            let error = text.parse::<ProxyUrl>().unwrap_err();
            assert_eq!(error, ParseProxyError::Form { url: text.into() });
        }
    }
}
