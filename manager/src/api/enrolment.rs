//! Joining and renewing: the only calls that a daemon without a certificate may make.

use std::time::SystemTime;

use flotilla_daemon::identity::manager_id;
use flotilla_daemon::rpc::{self, Enrolment};
use flotilla_proto::wire::manager::{Certificate, EnrollRequest, RenewRequest};
use flotilla_proto::{Identity, KeyHash, PeerId, Role};
use tonic::{Request, Response, Status};

use super::Services;
use super::status::{parse, store_failed};
use crate::identity::{ADMIN_ID, JoinSecret, SigningRequest};
use crate::store::{Applicant, CertifiedKey, Enrolled};

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
        let (key, former) = (signing_request.key(), former_key(&request, signing_request.key())?);
        let now = SystemTime::now();
        let applicant = Applicant {
            id: &id,
            secret_hash: JoinSecret::presented(request.secret).hash(),
            key: CertifiedKey { hash: key, ends: now + self.certificate_lifetime },
            former,
        };
        let Enrolled { region, role, token, replaced: _ } = self.topology.enrol(&applicant).await?;
        let identity = Identity { cluster: self.topology.cluster().clone(), region: Some(region), role, id };
        tracing::info!(%identity, token, key = key.short(), "daemon enrolled");
        self.issue(&identity, &signing_request, now)
    }

    async fn renew_for_caller(&self, request: &Request<RenewRequest>) -> Result<Certificate, Status> {
        let caller = rpc::require(request, &[Role::Scheduler, Role::Peer, Role::Seed])?;
        let key = rpc::caller_key(request)?;
        self.require_enrolled(&caller, key).await?;
        let signing_request = SigningRequest::parse(&request.get_ref().csr_der)?;
        if signing_request.key() != key {
            return Err(Status::invalid_argument("a renewal is for the key that the certificate has"));
        }
        let now = SystemTime::now();
        let certified = CertifiedKey { hash: key, ends: now + self.certificate_lifetime };
        let noted = self.topology.store().note_certified(&caller.id, certified).await;
        if !noted.map_err(|error| store_failed(&error))? {
            return Err(not_enrolled(&caller));
        }
        self.issue(&caller, &signing_request, now)
    }

    /// A certificate outlives the removal of its daemon; the table decides.
    pub(super) async fn require_enrolled(&self, caller: &Identity, key: KeyHash) -> Result<(), Status> {
        // Whatever it shows was issued before this moment.
        let key = CertifiedKey { hash: key, ends: SystemTime::now() + self.certificate_lifetime };
        let enrolled = self.topology.store().is_enrolled(caller, key).await;
        if enrolled.map_err(|error| store_failed(&error))? {
            return Ok(());
        }
        Err(not_enrolled(caller))
    }

    fn issue(
        &self,
        identity: &Identity,
        request: &SigningRequest,
        now: SystemTime,
    ) -> Result<Certificate, Status> {
        let issued = self.ca.issue(identity, request.public_key(), now, self.certificate_lifetime)?;
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

/// The key that agrees that `key` takes its place.
fn former_key(request: &EnrollRequest, key: KeyHash) -> Result<Option<KeyHash>, Status> {
    if request.former_csr_der.is_empty() {
        return Ok(None);
    }
    let former = SigningRequest::parse(&request.former_csr_der)?;
    Ok(former.agrees_to(key).then(|| former.key()))
}

fn not_enrolled(caller: &Identity) -> Status {
    Status::permission_denied(format!(
        "{caller} is not in the topology any more, or its name has another key; a new join token enrols it again"
    ))
}
