//! Which blobs registries are known to hold in which repositories (DESIGN.md §9). Whose
//! credential found it out does not matter: that it is the repository's own is the point.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use flotilla_proto::{Digest, RegistryHost, RepositoryName};
use tokio::sync::watch;

/// Confirmed places, bounded: beyond [`MAX_PLACES`] the oldest is forgotten and asked again.
pub(crate) struct Confirmed {
    /// Guards the set and its order together; held for one operation.
    places: Mutex<Places>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Places {
    set: HashSet<Place>,
    oldest_first: VecDeque<Place>,
}

type Place = (RegistryHost, RepositoryName, Digest);

impl Confirmed {
    pub(crate) fn new() -> Self {
        Self { places: Mutex::default(), changes: watch::Sender::new(0) }
    }

    pub(crate) fn contains(
        &self,
        upstream: &RegistryHost,
        repository: &RepositoryName,
        digest: Digest,
    ) -> bool {
        self.lock().set.contains(&(upstream.clone(), repository.clone(), digest))
    }

    pub(crate) fn insert(&self, upstream: RegistryHost, repository: RepositoryName, digest: Digest) {
        let mut places = self.lock();
        let place = (upstream, repository, digest);
        if places.set.insert(place.clone()) {
            places.oldest_first.push_back(place);
        }
        if places.oldest_first.len() > MAX_PLACES
            && let Some(oldest) = places.oldest_first.pop_front()
        {
            places.set.remove(&oldest);
        }
        drop(places);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until the place is confirmed.
    pub(crate) async fn until(&self, upstream: &RegistryHost, repository: &RepositoryName, digest: Digest) {
        let mut changes = self.changes.subscribe();
        while !self.contains(upstream, repository, digest) {
            changes.changed().await.expect("the sender lives in self");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some 200 bytes each.
const MAX_PLACES: usize = 65_536;
