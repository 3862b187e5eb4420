//! How seeds find the endpoints of registries, as each last said. Kept in memory: what a seed
//! saw before the manager started is no news.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_proto::PeerId;
use flotilla_proto::wire::manager::{EndpointHealth, EndpointReport};

/// The last report of each seed; a clone is the same book.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointBook {
    /// Guards the reports alone and is held for one map operation.
    report_by_seed: Arc<Mutex<HashMap<PeerId, Vec<EndpointHealth>>>>,
}

impl EndpointBook {
    /// Takes a seed's report in place of its last one, at most [`MAX_ENDPOINTS`] of it.
    pub(crate) fn report(&self, seed: &PeerId, report: EndpointReport) {
        let EndpointReport { revision, endpoints } = report;
        let endpoints = endpoints.into_iter().take(MAX_ENDPOINTS).map(|health| EndpointHealth {
            seed: seed.to_string(),
            revision,
            reason: health.reason.chars().take(MAX_REASON_LEN).collect(),
            ..health
        });
        self.lock().insert(seed.clone(), endpoints.collect());
    }

    /// What the seeds say that are still there; the others are forgotten.
    pub(crate) fn of_seeds(&self, is_there: impl Fn(&PeerId) -> bool) -> Vec<EndpointHealth> {
        let mut reports = self.lock();
        reports.retain(|seed, _| is_there(seed));
        let mut health: Vec<_> = reports.values().flatten().cloned().collect();
        health.sort_by(|a, b| (&a.host, &a.url, &a.seed).cmp(&(&b.host, &b.url, &b.seed)));
        health
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Vec<EndpointHealth>>> {
        self.report_by_seed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More than any region reads from.
const MAX_ENDPOINTS: usize = 1024;
/// In characters.
const MAX_REASON_LEN: usize = 512;
