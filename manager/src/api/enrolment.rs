//! Joining and renewing: the only calls that a daemon without a certificate may make.

use std::time::SystemTime;

use flotilla_daemon::identity::manager_id;
use flotilla_daemon::rpc::{self, Enrolment};
use flotilla_proto::wire::manager::{Certificate, EnrollRequest, RenewRequest};
use flotilla_proto::{Identity, PeerId, Role};
use tonic::{Request, Response, Status};

use super::Services;
use super::status::{parse, store_failed};
use crate::identity::{ADMIN_ID, JoinSecret, SigningRequest};

#[tonic::async_trait]
impl Enrolment for Services {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<Certificate>, Status> {
        self.counted(self.enrol(request.into_inner()).await)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        self.counted(self.renew_for_caller(&request).await)
    }
}

impl Services {
    async fn enrol(&self, request: EnrollRequest) -> Result<Certificate, Status> {
        // Everything that can be wrong with the request comes before a use is spent.
        let id: PeerId = parse("daemon name", &request.id)?;
        if id == manager_id() || id.as_str() == ADMIN_ID {
            return Err(Status::invalid_argument(format!(
                "the name `{id}` is reserved; set another `name` in the daemon's configuration"
            )));
        }
        let signing_request = SigningRequest::parse(&request.csr_der)?;
        let secret = JoinSecret::presented(request.secret);
        let (region, role) = self.topology.store().enrol(&id, &secret.hash(), SystemTime::now()).await?;
        let identity = Identity { cluster: self.topology.cluster().clone(), region: Some(region), role, id };
        tracing::info!(%identity, "daemon enrolled");
        self.issue(&identity, &signing_request)
    }

    async fn renew_for_caller(&self, request: &Request<RenewRequest>) -> Result<Certificate, Status> {
        let caller = rpc::require(request, &[Role::Scheduler, Role::Peer, Role::Seed])?;
        self.require_enrolled(&caller).await?;
        let signing_request = SigningRequest::parse(&request.get_ref().csr_der)?;
        self.issue(&caller, &signing_request)
    }

    /// A certificate outlives the removal of its daemon; the table decides.
    pub(super) async fn require_enrolled(&self, caller: &Identity) -> Result<(), Status> {
        let enrolled = self.topology.store().is_enrolled(caller).await;
        if enrolled.map_err(|error| store_failed(&error))? {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{caller} is not in the topology any more; a new join token enrols it again"
        )))
    }

    fn issue(&self, identity: &Identity, request: &SigningRequest) -> Result<Certificate, Status> {
        let issued =
            self.ca.issue(identity, request.public_key(), SystemTime::now(), self.certificate_lifetime)?;
        Ok(Certificate {
            chain_der: vec![issued.to_vec().into()],
            ca_der: self.ca.certificate().to_vec().into(),
            identity: identity.to_string(),
        })
    }

    fn counted(&self, result: Result<Certificate, Status>) -> Result<Response<Certificate>, Status> {
        match &result {
            Ok(_) => self.metrics.issued.inc(),
            Err(status) => {
                tracing::warn!(reason = status.message(), "certificate refused");
                self.metrics.refused.inc()
            }
        };
        result.map(Response::new)
    }
}
