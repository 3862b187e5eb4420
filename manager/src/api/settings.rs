//! The stream of a region's settings.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::SystemTime;

use flotilla_daemon::rpc::{self, Settings};
use flotilla_proto::wire::manager::{Empty, EndpointReport, RegionSettings, WatchRequest};
use flotilla_proto::{Identity, KeyHash, RegionName, Role};
use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::Services;
use super::status::{parse, store_failed};
use crate::watch::Watcher;

#[tonic::async_trait]
impl Settings for Services {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<RegionSettings, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = rpc::require(&request, &[Role::Scheduler, Role::Peer, Role::Seed])?;
        let Some(region) = caller.region.clone() else {
            return Err(Status::permission_denied(format!("{caller} belongs to no region")));
        };
        let key = rpc::caller_key(&request)?;
        self.require_enrolled(&caller, key).await?;
        let request = request.into_inner();
        let address: SocketAddr = parse("address", &request.address)?;
        let version: String = request.version.chars().take(MAX_VERSION_LEN).collect();
        let watcher = self.topology.watch(&caller, address, &version).await;
        let watcher = watcher.map_err(|error| store_failed(&error))?;
        // It may have been removed before it watched.
        self.require_enrolled(&caller, key).await?;
        let watch = Watch {
            services: self.clone(),
            caller,
            key,
            region,
            watcher,
            known: Known { revision: request.known_revision, revoked_keys: request.known_revoked_keys },
            last: None,
        };
        let stream = stream::unfold(Some(watch), |watch| async {
            match watch?.next().await {
                Ok((settings, watch)) => Some((Ok(settings), Some(watch))),
                Err(status) => Some((Err(status?), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn report_endpoints(&self, request: Request<EndpointReport>) -> Result<Response<Empty>, Status> {
        let caller = rpc::require(&request, &[Role::Seed])?;
        self.require_enrolled(&caller, rpc::caller_key(&request)?).await?;
        self.endpoints.report(&caller.id, request.into_inner());
        Ok(Response::new(Empty {}))
    }
}

/// One daemon's stream.
struct Watch {
    services: Services,
    caller: Identity,
    key: KeyHash,
    region: RegionName,
    watcher: Watcher,
    /// What the daemon has kept on its disk, until something is sent.
    known: Known,
    last: Option<RegionSettings>,
}

struct Known {
    revision: u64,
    revoked_keys: u32,
}

impl Known {
    /// Not `<`: a manager restored from a backup may have gone back.
    fn is(&self, settings: &RegionSettings) -> bool {
        settings.revision == self.revision && settings.revoked_keys.len() == self.revoked_keys as usize
    }
}

impl Watch {
    /// Waits for settings that the daemon does not have. An error of `None` ends the stream.
    async fn next(mut self) -> Result<(RegionSettings, Self), Option<Status>> {
        loop {
            if self.last.is_some() {
                self.wait_for_change().await?;
            }
            let settings = self.services.topology.settings(&self.region).await;
            let settings = settings.map_err(|error| Some(store_failed(&error)))?;
            let is_news = match &self.last {
                None => !self.known.is(&settings),
                Some(last) => !same_content(last, &settings),
            };
            self.last = Some(settings.clone());
            if is_news {
                return Ok((settings, self));
            }
        }
    }

    async fn wait_for_change(&mut self) -> Result<(), Option<Status>> {
        let shutdown = self.services.shutdown.clone();
        let changed = shutdown.run_until_cancelled(self.watcher.changed()).await;
        self.note_seen().await;
        if changed.is_none() {
            return Err(None);
        }
        self.services.require_enrolled(&self.caller, self.key).await.map_err(Some)
    }

    async fn note_seen(&self) {
        let seen = self.services.topology.store().note_seen(self.watcher.id(), SystemTime::now()).await;
        if let Err(error) = seen {
            store_failed(&error);
        }
    }
}

/// Most changes concern other regions.
fn same_content(a: &RegionSettings, b: &RegionSettings) -> bool {
    (&a.registries, &a.schedulers, &a.seeds, &a.revoked_keys)
        == (&b.registries, &b.schedulers, &b.seeds, &b.revoked_keys)
}

/// In characters; a version is a few.
const MAX_VERSION_LEN: usize = 64;
