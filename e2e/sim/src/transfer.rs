//! Pieces on their way from parent to child: asked for, queued, sent, verified.

use std::time::Duration;

use flotilla_peer_core::{Failure, FetchError, Input as PeerInput};
use flotilla_proto::{Digest, Layout};

use crate::event::{Event, NodeIndex};
use crate::fair::Path;
use crate::network::FlowId;
use crate::node::NodeLinks;
use crate::world::{Cargo, World};

/// A fetch, never used again once it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FetchId(pub(crate) u64);

/// One piece that a child fetches.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) child: NodeIndex,
    pub(crate) parent: NodeIndex,
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    pub(crate) piece: u32,
    /// The child gives up when nothing came for so long.
    pub(crate) stall: Duration,
    pub(crate) stage: Stage,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The request is on its way.
    Asked,
    /// The parent has it in its queue.
    Waiting,
    /// The piece flows.
    Sending(FlowId),
    /// The parent died while it sent.
    Cut,
}

impl World<'_> {
    pub(crate) fn start_fetch(&mut self, fetch: Fetch) {
        let id = FetchId(self.next_id());
        let former = self.nodes[fetch.child.place()].fetches.insert((fetch.digest, fetch.piece), id);
        assert_eq!(former, None, "a core aborts a fetch before it starts another for the piece");
        self.queue.push(self.now + REQUEST, Event::Asked(id));
        self.queue.push(self.now + fetch.stall, Event::MayStall(id));
        self.nodes[fetch.child.place()].met.insert(fetch.parent);
        self.nodes[fetch.parent.place()].met.insert(fetch.child);
        self.fetches.insert(id, fetch);
    }

    /// The parent takes the request, or refuses it.
    pub(crate) fn asked(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        let parent = &mut self.nodes[fetch.parent.place()];
        if !parent.is_alive {
            return;
        }
        if !parent.holds(fetch.digest, fetch.piece) {
            self.fail_fetch(id, FetchError::NotHeld);
        } else if parent.uploads.running < UPLOADS_AT_ONCE {
            self.send_piece(id);
        } else if parent.uploads.waiting.len() < UPLOADS_WAITING {
            fetch.stage = Stage::Waiting;
            parent.uploads.waiting.push_back(id);
        } else {
            self.fail_fetch(id, FetchError::Busy);
        }
    }

    fn send_piece(&mut self, id: FetchId) {
        let fetch = self.fetches.get_mut(&id).expect("a fetch is sent while it is wanted");
        self.nodes[fetch.parent.place()].uploads.running += 1;
        let path = path(&self.nodes[fetch.parent.place()].links, &self.nodes[fetch.child.place()].links);
        let bytes = fetch.layout.piece_size(fetch.piece).into();
        fetch.stage = Stage::Sending(self.network.start(self.now, path, bytes, Cargo::Fetch(id)));
    }

    /// Counts what went over narrow links between zones.
    fn count_crossing(&mut self, parent: NodeIndex, child: NodeIndex, bytes: u64) {
        let zones = [parent, child].map(|node| self.nodes[node.place()].spec.zone);
        let narrow = [parent, child].map(|node| self.nodes[node.place()].links.zone.is_some());
        if zones[0] == zones[1] {
            return;
        }
        for (zone, _) in zones.into_iter().zip(narrow).filter(|(_, is_narrow)| *is_narrow) {
            *self.tally.crossed_bytes.entry(zone).or_default() += bytes;
        }
    }

    /// The last byte arrived: the child verifies and writes.
    pub(crate) fn fetch_arrived(&mut self, id: FetchId) {
        let (fetch, moved) = self.end_fetch(id).expect("a flow's fetch is there");
        let Fetch { child, parent, digest, piece, .. } = fetch;
        if self.nodes[parent.place()].spec.corrupts {
            self.tally.wasted_bytes += moved;
            let error = FetchError::Corrupt;
            return self.tell_peer(child, PeerInput::FetchFailed { digest, piece, error });
        }
        if self.nodes[child.place()].spec.disk_full {
            self.tally.wasted_bytes += moved;
            return self.tell_peer(child, PeerInput::GivenUp { digest, failure: disk_full() });
        }
        self.tally.kept_bytes += moved;
        self.tally.kept_pieces += 1;
        self.hold(child, digest, fetch.layout, piece);
        self.tell_peer(child, PeerInput::Fetched { digest, piece });
    }

    /// Nothing has come by now: the child gives up.
    pub(crate) fn may_stall(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get(&id) else { return };
        if !matches!(fetch.stage, Stage::Sending(_)) {
            self.fail_fetch(id, FetchError::Stalled);
        }
    }

    fn fail_fetch(&mut self, id: FetchId, error: FetchError) {
        let (Fetch { child, digest, piece, .. }, _) = self.end_fetch(id).expect("the caller found it");
        self.tell_peer(child, PeerInput::FetchFailed { digest, piece, error });
    }

    pub(crate) fn abort_fetch(&mut self, child: NodeIndex, digest: Digest, piece: u32) {
        if let Some(id) = self.nodes[child.place()].fetches.get(&(digest, piece)).copied()
            && let Some((_, moved)) = self.end_fetch(id)
        {
            self.tally.wasted_bytes += moved;
        }
    }

    /// Takes a fetch out of all books, and gives its upload slot to the next. How many bytes
    /// of it were sent.
    fn end_fetch(&mut self, id: FetchId) -> Option<(Fetch, u64)> {
        let fetch = self.fetches.remove(&id)?;
        self.nodes[fetch.child.place()].fetches.remove(&(fetch.digest, fetch.piece));
        let uploads = &mut self.nodes[fetch.parent.place()].uploads;
        let moved = match fetch.stage {
            Stage::Asked | Stage::Cut => 0,
            Stage::Waiting => {
                uploads.waiting.retain(|waiting| *waiting != id);
                0
            }
            Stage::Sending(flow) => {
                uploads.running -= 1;
                let next = uploads.waiting.pop_front();
                let moved = self.network.stop(self.now, flow);
                self.count_crossing(fetch.parent, fetch.child, moved);
                if let Some(next) = next {
                    self.send_piece(next);
                }
                moved
            }
        };
        Some((fetch, moved))
    }

    /// A node is dead: what it fetched is not wanted any more, and what it sent stops.
    pub(crate) fn cut_fetches(&mut self, dead: NodeIndex) {
        let own: Vec<(Digest, u32)> = self.nodes[dead.place()].fetches.keys().copied().collect();
        for (digest, piece) in own {
            self.abort_fetch(dead, digest, piece);
        }
        let sent: Vec<FetchId> =
            self.fetches.iter().filter(|(_, fetch)| fetch.parent == dead).map(|(id, _)| *id).collect();
        for id in sent {
            let fetch = self.fetches.get_mut(&id).expect("listed above");
            let (child, stall) = (fetch.child, fetch.stall);
            if let Stage::Sending(flow) = std::mem::replace(&mut fetch.stage, Stage::Cut) {
                let moved = self.network.stop(self.now, flow);
                self.tally.wasted_bytes += moved;
                self.count_crossing(dead, child, moved);
                self.queue.push(self.now + stall, Event::MayStall(id));
            }
        }
        self.nodes[dead.place()].uploads = crate::node::Uploads::default();
    }
}

/// Up, out of the zone, into the zone, down.
fn path(parent: &NodeLinks, child: &NodeLinks) -> Path {
    let crosses = parent.zone != child.zone;
    let out = parent.zone.filter(|_| crosses).map(|(out, _)| out);
    let into = child.zone.filter(|_| crosses).map(|(_, into)| into);
    [Some(parent.up), out, into, Some(child.down)].into_iter().flatten().collect()
}

fn disk_full() -> Failure {
    let message = "the disk of this node is full".to_owned();
    Failure { status: 507, code: "UNAVAILABLE".to_owned(), message, poisoned: false }
}

/// From a request to the first byte of its piece, or to its refusal.
const REQUEST: Duration = Duration::from_micros(300);

/// What the daemon's transport sends at once, and lets wait (`peer/src/transport/serve.rs`).
const UPLOADS_AT_ONCE: usize = 8;
const UPLOADS_WAITING: usize = 32;
