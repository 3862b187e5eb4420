//! Which blobs, or manifests, registries are known to hold in which repositories (docs/design.md §7). Whose
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

    /// The repository holds the blob no longer; without a digest, any of them may be gone.
    pub(crate) fn remove(
        &self,
        upstream: &RegistryHost,
        repository: &RepositoryName,
        digest: Option<Digest>,
    ) {
        let stays = |place: &Place| {
            (&place.0, &place.1) != (upstream, repository) || digest.is_some_and(|gone| gone != place.2)
        };
        let mut places = self.lock();
        places.set.retain(stays);
        places.oldest_first.retain(stays);
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
