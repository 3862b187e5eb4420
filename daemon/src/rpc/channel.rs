//! Channels to another daemon: connected when used, connected again when lost.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flotilla_proto::PeerId;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::{ALPN_GRPC, KEEP_ALIVE};
use crate::identity::{NodeIdentity, manager_id};

/// A channel to the daemon `server` at `address` (`host:port` or a socket address), whose
/// certificate must be `server`'s. It connects at its first call and after every loss; a
/// call that cannot connect within 5 s fails with `Unavailable`, for [`reason`] to explain.
pub fn channel(identity: &NodeIdentity, address: impl fmt::Display, server: &PeerId) -> Channel {
    channel_over(identity.client_config(&[ALPN_GRPC]), &address.to_string(), server)
}

/// A channel to the manager that the identity is from.
pub fn manager_channel(identity: &NodeIdentity) -> Channel {
    channel(identity, identity.manager_url().address(), &manager_id())
}

pub(crate) fn channel_over(tls: Arc<ClientConfig>, address: &str, server: &PeerId) -> Channel {
    let dns_name = server.dns_name();
    let connector = Connector {
        address: address.into(),
        server_name: ServerName::try_from(dns_name.clone()).expect("an id is a DNS label"),
        tls: TlsConnector::from(tls),
    };
    // `http` because the connector speaks TLS and tonic must not add its own.
    Endpoint::from_shared(format!("http://{dns_name}"))
        .expect("an id is a DNS label")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// What stands behind a failed call, for people: the server's words if it answered, else
/// the innermost cause ("connection refused") with the address.
pub fn reason(status: &Status) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if let Some(failed) = error.downcast_ref::<ConnectError>() {
            return failed.to_string();
        }
        match error.source() {
            Some(inner) => cause = Some(inner),
            None => return error.to_string(),
        }
    }
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}

struct Connector {
    address: Arc<str>,
    server_name: ServerName<'static>,
    tls: TlsConnector,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (address, server_name, tls) = (self.address.clone(), self.server_name.clone(), self.tls.clone());
        Box::pin(async move {
            let connect = async {
                let tcp = TcpStream::connect(&*address).await?;
                tcp.set_nodelay(true)?;
                tls.connect(server_name, tcp).await
            };
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            connected.map(TokioIo::new).map_err(|source| ConnectError { address, source })
        })
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection did not come to be.
#[derive(Debug, thiserror::Error)]
#[error("connect to {address}: {source}")]
struct ConnectError {
    address: Arc<str>,
    source: io::Error,
}
