//! Which registries gave what a seed has read of each blob.
//!
//! Only a whole blob can be held against its digest. Until then what one registry gave is no answer
//! for another's clients: they would see bytes that theirs never had.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use flotilla_proto::{Digest, RegistryHost};

/// What this seed knows of the blobs that it read since it started, and of those that it found whole. Bounded:
/// beyond [`MAX_BLOBS`] the oldest is forgotten, and where it came from not known.
pub(crate) struct Origins {
    /// Held for one operation.
    blobs: Mutex<Blobs>,
}

#[derive(Default)]
struct Blobs {
    origin_by_digest: HashMap<Digest, Origin>,
    oldest_first: VecDeque<Digest>,
}

enum Origin {
    /// The whole was found right: it does not matter.
    Proven,
    /// These gave parts.
    Of(BTreeSet<RegistryHost>),
    /// Parts are of an earlier life of this daemon, which did not write that down.
    Lost,
}

/// What is known of a blob's parts, as one registry's client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// They are right, wherever they came from.
    Proven,
    /// What was read came from its registry.
    No,
    /// Another registry gave some.
    Yes,
    /// Nothing was read here since the start.
    Unread,
    /// Nobody knows where some came from.
    Lost,
}

impl Origins {
    /// These blobs were on the disk at the start; `true`: whole and right.
    pub(crate) fn new(found: impl IntoIterator<Item = (Digest, bool)>) -> Self {
        let origins = Self { blobs: Mutex::default() };
        for (digest, is_right) in found {
            let found = if is_right { Origin::Proven } else { Origin::Lost };
            origins.with(digest, |origin| *origin = found);
        }
        origins
    }

    /// These registries gave parts of the blob, and more may follow: it is no longer proven.
    pub(crate) fn note(&self, digest: Digest, from: impl IntoIterator<Item = RegistryHost>) {
        self.with(digest, |origin| match origin {
            Origin::Of(hosts) => hosts.extend(from),
            Origin::Proven => *origin = Origin::Of(from.into_iter().collect()),
            Origin::Lost => {}
        });
    }

    /// The blob is whole and right.
    pub(crate) fn proven(&self, digest: Digest) {
        self.with(digest, |origin| *origin = Origin::Proven);
    }

    /// What was held of the blob is wrong, and gone.
    pub(crate) fn forget(&self, digest: Digest) {
        let mut blobs = self.lock();
        if blobs.origin_by_digest.remove(&digest).is_some() {
            blobs.oldest_first.retain(|other| *other != digest);
        }
    }

    /// Whether parts of the blob are another registry's than this one's.
    pub(crate) fn foreign(&self, digest: Digest, upstream: &RegistryHost) -> Foreign {
        match self.lock().origin_by_digest.get(&digest) {
            None => Foreign::Unread,
            Some(Origin::Proven) => Foreign::Proven,
            Some(Origin::Lost) => Foreign::Lost,
            Some(Origin::Of(hosts)) if hosts.is_empty() => Foreign::Unread,
            Some(Origin::Of(hosts)) if hosts.iter().all(|host| host == upstream) => Foreign::No,
            Some(Origin::Of(_)) => Foreign::Yes,
        }
    }

    fn with(&self, digest: Digest, change: impl FnOnce(&mut Origin)) {
        let mut blobs = self.lock();
        if !blobs.origin_by_digest.contains_key(&digest) {
            blobs.oldest_first.push_back(digest);
        }
        change(blobs.origin_by_digest.entry(digest).or_insert_with(|| Origin::Of(BTreeSet::new())));
        if blobs.oldest_first.len() > MAX_BLOBS
            && let Some(oldest) = blobs.oldest_first.pop_front()
        {
            blobs.origin_by_digest.remove(&oldest);
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
    fn what_one_registry_gave_is_its_clients_alone_until_it_is_proven() {
        let (origins, blob) = (Origins::new([]), Digest::of(b"blob"));
        let (reg, hub) = (host("reg.test"), host("hub.test"));
        let foreign = || [&reg, &hub].map(|to| origins.foreign(blob, to));
        assert_eq!(foreign(), [Foreign::Unread; 2]);
        origins.note(blob, []);
        assert_eq!(foreign(), [Foreign::Unread; 2]);
        origins.note(blob, [reg.clone()]);
        assert_eq!(foreign(), [Foreign::No, Foreign::Yes]);
        origins.note(blob, [hub.clone()]);
        assert_eq!(foreign(), [Foreign::Yes, Foreign::Yes]);
        origins.proven(blob);
        assert_eq!(foreign(), [Foreign::Proven; 2]);
        // It was evicted, and is read again.
        origins.note(blob, [hub.clone()]);
        assert_eq!(foreign(), [Foreign::Yes, Foreign::No]);
        origins.forget(blob);
        assert_eq!(foreign(), [Foreign::Unread; 2]);
    }

    #[test]
    fn what_was_found_in_part_is_nobodys_until_it_is_proven() {
        let (whole, part, reg) = (Digest::of(b"whole"), Digest::of(b"part"), host("reg.test"));
        let origins = Origins::new([(whole, true), (part, false)]);
        assert_eq!(origins.foreign(whole, &reg), Foreign::Proven);
        origins.note(part, [reg.clone()]);
        assert_eq!(origins.foreign(part, &reg), Foreign::Lost);
        origins.proven(part);
        assert_eq!(origins.foreign(part, &reg), Foreign::Proven);
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let digest = |number: usize| Digest::of(&number.to_be_bytes());
        let origins = Origins::new((0..=MAX_BLOBS).map(|number| (digest(number), true)));
        assert_eq!(origins.foreign(digest(0), &host("reg.test")), Foreign::Unread);
        assert_eq!(origins.foreign(digest(1), &host("reg.test")), Foreign::Proven);
    }
}
