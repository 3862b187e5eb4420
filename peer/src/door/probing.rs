//! Clients that ask the registry about one blob with one credential at the same time share one question and its answer.

use std::sync::Arc;

use dashmap::{DashMap, Entry};
use flotilla_proto::Digest;
use tokio::sync::watch;

use crate::grant::Holder;

type Key = (Holder, Digest);

/// Questions under way. Bounded by how many clients ask.
#[derive(Debug, Default)]
pub(crate) struct Probes(Arc<DashMap<Key, watch::Receiver<Option<u64>>>>);

/// What a client does about its question.
pub(super) enum Part {
    /// It asks, and says what it heard.
    Asks(Asking),
    /// It hears what another is told: the blob's size. The sender goes without a word where that came to nothing.
    Hears(watch::Receiver<Option<u64>>),
}

/// A question under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Asking {
    probes: Arc<DashMap<Key, watch::Receiver<Option<u64>>>>,
    key: Key,
    said: watch::Sender<Option<u64>>,
}

impl Probes {
    /// Asks, or joins who asks already.
    pub(super) fn part(&self, holder: Holder, digest: Digest) -> Part {
        let key = (holder, digest);
        match self.0.entry(key.clone()) {
            Entry::Occupied(asked) => Part::Hears(asked.get().clone()),
            Entry::Vacant(free) => {
                let (said, heard) = watch::channel(None);
                free.insert(heard);
                Part::Asks(Asking { probes: Arc::clone(&self.0), key, said })
            }
        }
    }
}

impl Asking {
    /// The registry accepts the credential, and the blob has so many bytes.
    pub(super) fn accepted(self, size: u64) {
        self.said.send_replace(Some(size));
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.probes.remove(&self.key);
    }
}

/// What the other is told; `None` if nothing came of it.
pub(super) async fn heard(mut from: watch::Receiver<Option<u64>>) -> Option<u64> {
    from.wait_for(Option::is_some).await.ok().and_then(|size| *size)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::Authorization;

    use super::*;
    use crate::source::ReadCredential;

    fn holder(authorization: &'static str) -> Holder {
        let authorization = Authorization::new(authorization.as_bytes().to_vec());
        let (upstream, repository) = ("reg.test".parse().unwrap(), "app".parse().unwrap());
        crate::door::answer::holder(&ReadCredential { upstream, repository, authorization })
    }

    #[tokio::test]
    async fn who_asks_the_same_meanwhile_hears_the_same() {
        let (probes, blob) = (Probes::default(), Digest::of(b"blob"));
        let Part::Asks(first) = probes.part(holder("Basic a"), blob) else { panic!("nobody asks yet") };
        let Part::Hears(second) = probes.part(holder("Basic a"), blob) else { panic!("asked already") };
        assert!(matches!(probes.part(holder("Basic b"), blob), Part::Asks(_)), "another credential");
        assert!(
            matches!(probes.part(holder("Basic a"), Digest::of(b"other")), Part::Asks(_)),
            "another blob"
        );
        first.accepted(5);
        assert_eq!(heard(second).await, Some(5));
        // What was said once is not said of the next question.
        assert!(matches!(probes.part(holder("Basic a"), blob), Part::Asks(_)));
        assert!(probes.0.is_empty());
    }

    #[tokio::test]
    async fn a_question_that_came_to_nothing_is_everybody_s_own_again() {
        let (probes, blob) = (Probes::default(), Digest::of(b"blob"));
        let Part::Asks(first) = probes.part(holder("Basic a"), blob) else { panic!("nobody asks yet") };
        let Part::Hears(second) = probes.part(holder("Basic a"), blob) else { panic!("asked already") };
        drop(first);
        assert_eq!(heard(second).await, None);
    }
}
