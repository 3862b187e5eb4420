//! Following what a partner holds of a blob, and being followed: one stream, everything at
//! first, then what comes, gathered for a little while.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Follow, Held, Response, request};
use flotilla_proto::wire::{join_hashes, split_hashes};
use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet, frame};
use quinn::SendStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use super::serve::{AnswerError, Services, say};
use super::{CallError, Transport, runs};
use crate::swarm::Live;

/// Pieces that a partner holds besides those it told before, and their hashes in order.
pub(crate) type Told = (PieceSet, Vec<PieceHash>);

impl Transport {
    /// Follows a partner, into `told`, until it ends the stream, cannot be reached or says what
    /// makes no sense.
    ///
    /// # Errors
    ///
    /// If it cannot be followed at all.
    pub(crate) async fn follow(
        &self,
        partner: &PeerId,
        (digest, layout): (Digest, Layout),
        told: &mpsc::Sender<Told>,
    ) -> Result<(), CallError> {
        let (mut send, mut answer) =
            self.open(partner, request::Kind::Follow(Follow { digest: digest.into() })).await?;
        // A stream that is gone shows on its other half.
        let _ = send.finish();
        let header = answer.header::<Response>(ANSWER_PATIENCE).await?;
        if header.status() != Status::Ok {
            return Err(CallError::Refused(format!("{:?}", header.status())));
        }
        while let Some(held) = answer.message::<Held>().await? {
            let Some(news) = read(layout.piece_count(), &held) else { break };
            if told.send(news).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn read(len: u32, held: &Held) -> Option<Told> {
    let pieces = runs::from_wire(len, &held.runs)?;
    let hashes = split_hashes(&held.hashes)?;
    (hashes.len() == pieces.count() as usize).then_some((pieces, hashes))
}

impl Services {
    /// Tells a follower what is held of a blob until it leaves, or the blob goes. `places` are
    /// those of its connection.
    pub(super) async fn followed(
        &self,
        send: &mut SendStream,
        follow: &Follow,
        places: &Arc<Semaphore>,
    ) -> Result<(), AnswerError> {
        let Ok(digest) = Digest::try_from(&follow.digest) else {
            return say(send, Status::Refused, "a digest has 32 bytes").await;
        };
        let Some(live) = self.swarm.live(digest) else {
            return say(send, Status::NotHeld, "").await;
        };
        let Ok(_place) = places.try_acquire() else {
            return say(send, Status::Busy, "").await;
        };
        say(send, Status::Ok, "").await?;
        let gone = send.stopped();
        tokio::select! {
            told = self.tell_all(send, &live) => told,
            _ = gone => Ok(()),
        }
    }

    async fn tell_all(&self, send: &mut SendStream, live: &Live) -> Result<(), AnswerError> {
        let mut told = PieceSet::new(live.layout().piece_count());
        // An error: the blob is gone, and with it what there was to tell.
        while let Ok(fresh) = live.held_besides(&told).await {
            let told_at = Instant::now();
            for part in parts(&fresh) {
                if let Some(hashes) = self.store.hashes_of(live.digest(), &part) {
                    let held = Held { runs: runs::to_wire(&part), hashes: join_hashes(&hashes) };
                    send.write_chunk(frame::encode(&held)).await?;
                }
                told.union_with(&part);
            }
            sleep_until(told_at + GATHERING).await;
        }
        Ok(())
    }
}

/// The set in parts that fit a message each.
fn parts(pieces: &PieceSet) -> Vec<PieceSet> {
    let pieces_in_order: Vec<u32> = pieces.iter().collect();
    let part = |chunk: &[u32]| {
        let mut part = PieceSet::new(pieces.len());
        for piece in chunk {
            part.insert(*piece);
        }
        part
    };
    pieces_in_order.chunks(runs::MAX_RUNS).map(part).collect()
}

/// Blobs that one peer may follow here at a time; one more is answered *busy*.
pub(super) const FOLLOWS: usize = 128;

/// How long what there is to tell a follower is gathered. A peer at 1 Gbit/s has some 20 followers
/// and gets a piece every 4 to 8 ms; simulated, local-200 of two seeds ends at 1.145 and 1.089 of the
/// bound with 20 ms, at 1.140 with 5 and 1.142 and 1.087 with 10.
const GATHERING: Duration = Duration::from_millis(20);

/// A partner that does not answer in so long is not followed.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_without_a_hash_to_each_piece_is_no_news() {
        let held =
            |hashes: usize| Held { runs: runs::to_wire(&PieceSet::full(3)), hashes: vec![7; hashes].into() };
        assert!(read(3, &held(96)).is_some());
        assert!(read(3, &held(64)).is_none() && read(3, &held(95)).is_none());
        assert!(read(2, &held(96)).is_none(), "a piece that the blob does not have");
    }

    #[test]
    fn what_is_told_is_cut_into_messages_that_fit() {
        let parts = parts(&PieceSet::full(1000));
        assert_eq!(parts.iter().map(PieceSet::count).collect::<Vec<_>>(), [256, 256, 256, 232]);
    }
}
