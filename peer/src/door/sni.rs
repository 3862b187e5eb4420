//! The door `sni`: clients whose resolver takes this node for the registry. TLS names which
//! registry is meant, and is opened as at the door `proxy`.
//!
//! The seed must not be led back here: it reaches the registry by the address configured for its
//! endpoint. A request that comes back all the same is refused as a loop.

use std::sync::Arc;

use flotilla_daemon::watched::Watched;
use flotilla_proto::RegistryHost;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::client::Client;
use super::proxy::HANDSHAKE_TIMEOUT;
use super::route::FrontDoor;
use super::{Door, serving};

/// Serves one client's connection to its end.
pub(super) async fn serve(door: Arc<Door>, client: &Arc<Client>, stream: Watched<TcpStream>) {
    let port = stream.get_ref().local_addr().map_or(443, |address| address.port());
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let Ok(Ok(hello)) = timeout(HANDSHAKE_TIMEOUT, hello).await else {
        return tracing::debug!("a client of the sni door said no TLS hello");
    };
    let name = hello.client_hello().server_name().map(str::to_owned);
    let Some(upstream) = name.as_deref().and_then(|name| meant(&door, name, port)) else {
        return tracing::warn!(
            name = name.unwrap_or_default(),
            "a client of the sni door names no configured registry"
        );
    };
    let tls = match door.authorities.server(&upstream) {
        Ok(tls) => tls,
        Err(error) => return tracing::error!(registry = %upstream, %error, "play a registry"),
    };
    match timeout(HANDSHAKE_TIMEOUT, hello.into_stream(tls)).await {
        Ok(Ok(stream)) => {
            let handler = |request| door.clone().as_registry(FrontDoor::Sni, upstream.clone(), request);
            serving::http(stream, client, handler).await;
        }
        Ok(Err(error)) => super::proxy::refused_certificate(&upstream, &error),
        Err(_) => tracing::debug!(registry = %upstream, "a client's TLS handshake took too long"),
    }
}

/// The registry under that name and this port, or under the name alone where the port was mapped.
fn meant(door: &Door, name: &str, port: u16) -> Option<RegistryHost> {
    let settings = door.settings.borrow();
    let named = [format!("{name}:{port}"), name.to_owned()];
    let named = named.iter().filter_map(|text| RegistryHost::dialled_at(text));
    named.into_iter().find(|host| settings.upstream(host).is_some())
}
