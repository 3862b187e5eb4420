//! How a client's body follows a blob through failures that are not its own.
//!
//! A download is the region's: it fails when every place that was offered for it did. A client is failed
//! only by what its own place said, by its own peer, or by time; in all other cases the blob is wanted again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Failure, FailureCause, Layout};
use tokio::time::{sleep, timeout_at};

use super::error::not_forwarded;
use crate::body;
use crate::egress::Egress;
use crate::grant::Trust;
use crate::seed::Moment;
use crate::source::{BodyStream, ReadCredential};
use crate::store::{BlobFile, Store};
use crate::swarm::{Live, Reading, Swarm, Wish};
use crate::transport::{Delivered, Offered};

/// One client that waits for the pieces of one blob.
pub(super) struct Pursuit {
    swarm: Swarm,
    egress: Arc<Egress>,
    credential: ReadCredential,
    wish: Wish,
    reading: Reading,
    pause: Duration,
    /// How often what came was wrong.
    wrong: u32,
    /// Whose bytes its client may see.
    trust: Trust,
    /// Whether its registry has delivered the whole blob, which is right and here.
    is_delivered: bool,
}

/// Why a client cannot go on.
pub(super) enum Lost {
    /// This is what it is told.
    Answer(Box<http::Response<BodyStream>>),
    /// As above, of the region's own.
    Failure(Failure),
    /// The blob has another size than the client was going to be told.
    OtherSize(u64),
    /// Time is up, and there is no reason to despair.
    Late,
}

impl Pursuit {
    pub(super) fn new(
        swarm: Swarm,
        egress: Arc<Egress>,
        credential: ReadCredential,
        wish: Wish,
        reading: Reading,
        trust: Trust,
    ) -> Self {
        let pause = FIRST_PAUSE;
        Self { swarm, egress, credential, wish, reading, pause, wrong: 0, trust, is_delivered: false }
    }

    pub(super) fn layout(&self) -> Layout {
        self.reading.live().layout()
    }

    /// The download that it waits for: another one, once what came was void.
    pub(super) fn live(&self) -> &Arc<Live> {
        self.reading.live()
    }

    fn digest(&self) -> Digest {
        self.reading.live().digest()
    }

    /// Waits until the piece may be read, until `deadline` at most. Once bytes went out, `has_sent`, no
    /// others may follow where those were wrong.
    pub(super) async fn released(
        &mut self,
        piece: u32,
        deadline: Instant,
        has_sent: bool,
    ) -> Result<(), Lost> {
        loop {
            let released = timeout_at(deadline.into(), self.reading.released(&self.wish, piece)).await;
            let Err(failure) = released.map_err(|_| Lost::Late)? else {
                self.pause = FIRST_PAUSE;
                if self.wish == Wish::Whole || !self.reading.live().is_hearsay(piece) {
                    return Ok(());
                }
                // Of a part nobody can tell whether it is right.
                self.want_whole().await?;
                continue;
            };
            let goes_on = timeout_at(deadline.into(), self.after(&failure, piece, has_sent)).await;
            goes_on.unwrap_or(Err(Lost::Failure(failure)))?;
        }
    }

    /// Wants the blob again, if it may be had.
    async fn after(&mut self, failure: &Failure, piece: u32, has_sent: bool) -> Result<(), Lost> {
        self.wrong += u32::from(failure.is_poisoned());
        match failure.cause {
            FailureCause::OtherSize(size) => return Err(Lost::OtherSize(size)),
            FailureCause::WrongBytes if has_sent || self.wrong > MOST_WRONG => {
                return Err(Lost::Failure(failure.clone()));
            }
            FailureCause::Region => return Err(Lost::Failure(failure.clone())),
            FailureCause::Contested => return self.want_later(piece).await,
            FailureCause::Source | FailureCause::WrongBytes => {}
        }
        match self.egress.confirm(self.digest(), &self.credential, Moment::AfterFailure).await {
            Ok(Offered::Confirmed) => {}
            Ok(Offered::Refused(refused)) => return Err(Lost::answer(refused.map(body::full))),
            Err(error) if error.is_of_registry() => return Err(Lost::answer(not_forwarded(&error))),
            // No seed says anything of it: the download's own failure does.
            Err(_) => return Err(Lost::Failure(failure.clone())),
        }
        self.want_later(piece).await
    }

    async fn want_later(&mut self, piece: u32) -> Result<(), Lost> {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.want_again(piece).await
    }

    /// Whether the client may see what is held of the blob: its registry gave it, or was found to have every byte of
    /// it.
    pub(super) fn may_show(&self, file: &BlobFile) -> bool {
        self.is_delivered || self.trust.covers(&file.origins())
    }

    /// Waits for the whole where another registry gave a part: the client may see bytes of it once all are right, and
    /// [`Self::until_delivered`]. What is here may be others' bytes then than before.
    pub(super) async fn until_whole(&mut self, deadline: Instant, has_sent: bool) -> Result<(), Lost> {
        let last = self.want_whole().await?;
        self.released(last, deadline, has_sent).await
    }

    /// Wants all of it from here on. Its last piece, which is released once the whole is right.
    pub(super) async fn want_whole(&mut self) -> Result<u32, Lost> {
        let last = self.layout().last_piece().expect("an empty blob has no body");
        self.wish = Wish::Whole;
        self.want_again(last).await?;
        Ok(last)
    }

    /// Waits until the client's own registry has delivered the whole blob, which is here and right, now or before.
    pub(super) async fn until_delivered(&mut self, store: &Store, deadline: Instant) -> Result<(), Lost> {
        let (digest, layout) = (self.digest(), self.layout());
        // What was wrong may have been read again, from its own.
        let file = store.open_blob(digest).await.ok().flatten();
        if file.is_some_and(|file| self.may_show(&file)) {
            return Ok(());
        }
        while self.trust.deliverer(store, digest).is_none() {
            let asked = self.egress.deliver(digest, layout, &self.credential);
            match timeout_at(deadline.into(), asked).await.map_err(|_| Lost::Late)? {
                Ok(Delivered::Whole(by)) => {
                    store.delivered(digest, by).await;
                    break;
                }
                Ok(Delivered::Pending | Delivered::Unknown) => sleep(FIRST_PAUSE).await,
                Ok(Delivered::Refused(refused)) => return Err(Lost::answer(refused.map(body::full))),
                Err(error) => return Err(Lost::answer(not_forwarded(&error))),
            }
        }
        self.is_delivered = true;
        Ok(())
    }

    /// What the client needs next lies elsewhere in the blob.
    pub(super) async fn read_on_at(&mut self, piece: u32) {
        self.reading = self.swarm.read_from(self.reading.live().clone(), piece).await;
    }

    /// Wants the blob again, from a piece on.
    pub(super) async fn want_again(&mut self, piece: u32) -> Result<(), Lost> {
        let layout = self.layout();
        let live = self.swarm.want(self.digest(), layout, &self.wish, self.credential.clone()).await;
        let live = live.map_err(|failure| match failure.other_size() {
            Some(size) => Lost::OtherSize(size),
            None => Lost::Failure(failure),
        })?;
        if live.layout() != layout {
            return Err(Lost::OtherSize(live.layout().size()));
        }
        self.reading = self.swarm.read_from(live, piece).await;
        Ok(())
    }
}

impl Lost {
    fn answer(response: http::Response<BodyStream>) -> Self {
        Self::Answer(Box::new(response))
    }

    /// What a body that was begun breaks off with.
    pub(super) fn reason(self, digest: Digest) -> String {
        match self {
            Self::Answer(response) => format!("the registry answers {} for {digest}", response.status()),
            Self::Failure(failure) => failure.message,
            Self::OtherSize(size) => format!("{digest} has {size} bytes, other than its manifest says"),
            Self::Late => format!("no byte of {digest} came in time"),
        }
    }
}

/// Wrong bytes that a client waits through: its own place may be the right one.
const MOST_WRONG: u32 = 2;
/// Before a blob is wanted again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
