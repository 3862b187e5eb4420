//! Which registries gave parts of blobs that were never found right as a whole.
//!
//! Only a whole blob can be held against its digest. Until then what one registry gave is no answer
//! for another's clients: they would see bytes that theirs never had.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use flotilla_proto::{Digest, RegistryHost};

/// The registries of each such blob, bounded: beyond [`MAX_BLOBS`] the oldest is forgotten.
pub(crate) struct Unproven {
    /// Held for one operation.
    blobs: Mutex<Blobs>,
}

#[derive(Default)]
struct Blobs {
    /// `None`: from an earlier life of this daemon, which did not write it down.
    origins: HashMap<Digest, Option<BTreeSet<RegistryHost>>>,
    oldest_first: VecDeque<Digest>,
}

impl Unproven {
    /// These blobs were on the disk in parts, and nobody knows where they came from.
    pub(crate) fn new(found: impl IntoIterator<Item = Digest>) -> Self {
        let unproven = Self { blobs: Mutex::default() };
        for digest in found {
            unproven.with(digest, |origins| *origins = None);
        }
        unproven
    }

    /// These registries gave parts of the blob.
    pub(crate) fn note(&self, digest: Digest, from: impl IntoIterator<Item = RegistryHost>) {
        self.with(digest, |origins| {
            if let Some(origins) = origins {
                origins.extend(from);
            }
        });
    }

    /// The blob was found right, or what was held of it is gone.
    pub(crate) fn forget(&self, digest: Digest) {
        let mut blobs = self.lock();
        if blobs.origins.remove(&digest).is_some() {
            blobs.oldest_first.retain(|other| *other != digest);
        }
    }

    /// Whether parts of the blob may be of another registry than this one.
    pub(crate) fn is_of_another(&self, digest: Digest, upstream: &RegistryHost) -> bool {
        match self.lock().origins.get(&digest) {
            None => false,
            Some(None) => true,
            Some(Some(origins)) => origins.iter().any(|origin| origin != upstream),
        }
    }

    fn with(&self, digest: Digest, change: impl FnOnce(&mut Option<BTreeSet<RegistryHost>>)) {
        let mut blobs = self.lock();
        if !blobs.origins.contains_key(&digest) {
            blobs.oldest_first.push_back(digest);
        }
        change(blobs.origins.entry(digest).or_insert_with(|| Some(BTreeSet::new())));
        if blobs.oldest_first.len() > MAX_BLOBS
            && let Some(oldest) = blobs.oldest_first.pop_front()
        {
            blobs.origins.remove(&oldest);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Blobs> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MAX_BLOBS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> RegistryHost {
        name.parse().expect("a host")
    }

    #[test]
    fn what_came_of_one_registry_alone_is_its_clients_and_what_nobody_knows_is_nobodys() {
        let (found, read) = (Digest::of(b"found"), Digest::of(b"read"));
        let unproven = Unproven::new([found]);
        unproven.note(read, [host("reg.test")]);
        unproven.note(found, [host("reg.test")]);
        assert!(!unproven.is_of_another(read, &host("reg.test")));
        assert!(unproven.is_of_another(read, &host("hub.test")));
        assert!(unproven.is_of_another(found, &host("reg.test")));
        unproven.note(read, [host("hub.test")]);
        assert!(unproven.is_of_another(read, &host("reg.test")));
        unproven.forget(read);
        assert!(!unproven.is_of_another(read, &host("hub.test")));
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let digest = |number: usize| Digest::of(&number.to_be_bytes());
        let unproven = Unproven::new((0..=MAX_BLOBS).map(digest));
        assert!(!unproven.is_of_another(digest(0), &host("reg.test")));
        assert!(unproven.is_of_another(digest(1), &host("reg.test")));
    }
}
