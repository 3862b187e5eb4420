//! Who calls: the identity that the handshake verified, as services see it.

use std::net::SocketAddr;

use flotilla_proto::{Identity, KeyHash, Role};
use tonic::{Request, Status};

/// The far end of a connection, an extension of every request that comes over it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose certificate it showed; `None` only where a server lets clients in without one.
    pub identity: Option<Identity>,
    /// The key of that certificate.
    pub key: Option<KeyHash>,
    /// Where it calls from.
    pub address: SocketAddr,
}

/// Whose certificate the caller showed.
///
/// # Errors
///
/// `Unauthenticated` if it showed none.
pub fn caller<T>(request: &Request<T>) -> Result<Identity, Status> {
    request.extensions().get::<Caller>().and_then(|caller| caller.identity.clone()).ok_or_else(no_certificate)
}

fn no_certificate() -> Status {
    Status::unauthenticated("this call needs a certificate of the cluster")
}

/// The key of the certificate that the caller showed.
///
/// # Errors
///
/// `Unauthenticated` if it showed none.
pub fn caller_key<T>(request: &Request<T>) -> Result<KeyHash, Status> {
    let caller = request.extensions().get::<Caller>();
    caller.and_then(|caller| caller.key).ok_or_else(no_certificate)
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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn request_by(identity: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        let identity = identity.map(|text| text.parse().unwrap());
        request.extensions_mut().insert(Caller {
            identity,
            key: None,
            address: "127.0.0.1:1".parse().unwrap(),
        });
        request
    }

    #[test]
    fn a_caller_of_an_allowed_role_is_let_through() {
        let request = request_by(Some("flotilla://prod/eu/seed/seed-0"));
        assert_eq!(require(&request, &[Role::Peer, Role::Seed]).unwrap().id.as_str(), "seed-0");
    }

    #[test]
    fn another_role_and_no_certificate_are_refused_differently() {
        let refused = require(&request_by(Some("flotilla://prod/eu/peer/p-0")), &[Role::Seed]).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(refused.message(), "this call is for the role seed; p-0 has the role peer");
        assert_eq!(require(&request_by(None), &[Role::Seed]).unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(caller(&Request::new(())).unwrap_err().code(), Code::Unauthenticated);
    }
}
