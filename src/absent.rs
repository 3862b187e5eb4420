//! A daemon of this machine that does not answer: what to look at.

use hyper::Uri;

use crate::http::RequestError;

/// What stands behind a question to a daemon's admin address that got no answer.
pub(crate) fn explain(uri: &Uri, error: RequestError) -> anyhow::Error {
    let is_refused = matches!(&error, RequestError::Transport(transport) if transport.is_connect());
    if !is_refused || !is_loopback(uri) {
        return anyhow::Error::from(error).context(format!("ask {uri}"));
    }
    let daemon = match uri.port_u16() {
        Some(4002) => "manager",
        Some(4004) => "scheduler",
        _ => "peer",
    };
    anyhow::anyhow!(
        "the {daemon} does not run here, or not at {}: systemctl status flotilla-{daemon}; journalctl -u \
         flotilla-{daemon} ({error})",
        uri.authority().map_or("", |authority| authority.as_str())
    )
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}
