//! `host[:port]` of a URL, read more strictly than `http` reads it.

use http::uri::Authority;

/// The host, with brackets around an IPv6 address, and the port if one is written; `None`
/// for user names, empty hosts and ports outside 1 to 65535, which `Authority` lets pass.
pub(crate) fn host_and_port(authority: &Authority) -> Option<(&str, Option<u16>)> {
    let host = authority.host();
    if authority.as_str().contains('@') || host.is_empty() {
        return None;
    }
    if authority.as_str() == host {
        return Some((host, None));
    }
    let port = authority.port_u16().filter(|port| *port != 0)?;
    Some((host, Some(port)))
}
