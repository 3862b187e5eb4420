//! Who calls: the identity that the handshake verified, as services see it.

use std::net::SocketAddr;

use flotilla_proto::{Identity, Role};
use tonic::{Request, Status};

/// The far end of a connection, an extension of every request that comes over it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose certificate it showed; `None` only where a server lets clients in without one.
    pub identity: Option<Identity>,
    /// Where it calls from.
    pub address: SocketAddr,
}

/// Whose certificate the caller showed.
///
/// # Errors
///
/// `Unauthenticated` if it showed none.
pub fn caller<T>(request: &Request<T>) -> Result<Identity, Status> {
    request
        .extensions()
        .get::<Caller>()
        .and_then(|caller| caller.identity.clone())
        .ok_or_else(|| Status::unauthenticated("this call needs a certificate of the cluster"))
}

/// The caller, if it has one of `roles`.
///
/// # Errors
///
/// `Unauthenticated` without a certificate, `PermissionDenied` with one of another role.
pub fn require<T>(request: &Request<T>, roles: &[Role]) -> Result<Identity, Status> {
    let caller = caller(request)?;
    if roles.contains(&caller.role) {
        return Ok(caller);
    }
    let allowed: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
    let message = format!(
        "this call is for the role {}; {} has the role {}",
        allowed.join(" or "),
        caller.id,
        caller.role
    );
    Err(Status::permission_denied(message))
}
