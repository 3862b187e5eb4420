//! The gRPC services: who may call, what a request must hold, what an error is called.

mod enrolment;
mod settings;
mod status;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::identity::ManagerUrl;
use flotilla_daemon::rpc::{EnrolmentServer, SettingsServer, TopologyServer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::endpoints::EndpointBook;
use crate::identity::Ca;
use crate::topology::Topology;

/// What the services share.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) topology: Topology,
    pub(crate) ca: Arc<Ca>,
    /// What join tokens name.
    pub(crate) url: ManagerUrl,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) metrics: EnrolmentMetrics,
    /// What seeds say of endpoints.
    pub(crate) endpoints: EndpointBook,
    /// Ends the streams of settings.
    pub(crate) shutdown: CancellationToken,
}

impl Services {
    pub(crate) fn routes(self) -> Routes {
        Routes::new(EnrolmentServer::new(self.clone()))
            .add_service(SettingsServer::new(self.clone()))
            .add_service(TopologyServer::new(self))
    }
}

/// Counts of what the CA did.
#[derive(Debug, Clone, Default)]
pub(crate) struct EnrolmentMetrics {
    issued: Counter,
    refused: Counter,
}

impl EnrolmentMetrics {
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let this = Self::default();
        metrics.register(
            "flotilla_manager_certificates_issued",
            "Certificates issued to daemons, at enrolment and renewal",
            this.issued.clone(),
        );
        metrics.register(
            "flotilla_manager_enrolments_refused",
            "Enrolments and renewals that were refused",
            this.refused.clone(),
        );
        this
    }
}
