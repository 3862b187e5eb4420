//! Pieces on their way from parent to child: asked for, queued, sent, verified.

use std::time::Duration;

use flotilla_peer_core::{FetchError, Input as PeerInput, Patience, UploadId, UploadRefusal, UploadWish};
use flotilla_proto::{Digest, Failure, FailureCause, Layout, PeerId};

use crate::event::{Event, NodeIndex, Time};
use crate::fair::Path;
use crate::network::{FlowId, bytes_f64};
use crate::node::NodeLinks;
use crate::scenario::ZoneLink;
use crate::violation::Violation;
use crate::world::{Cargo, World};

/// A fetch, never used again once it ended. Its parent calls the upload the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FetchId(pub(crate) u64);

/// One piece that a child fetches.
#[derive(Debug)]
pub(crate) struct Fetch {
    child: NodeIndex,
    parent: NodeIndex,
    request: Request,
    begun_at: Time,
    /// When the child last looked how much had come, and how much it was.
    looked: (Time, f64),
    stage: Stage,
}

/// What a child asks of a parent, and how.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    pub(crate) wish: UploadWish,
    pub(crate) hearsay: bool,
    pub(crate) patience: Patience,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The request is on its way.
    Asked,
    /// The parent has it.
    Waiting,
    /// The piece flows, since `first_byte` after the request.
    Sending { flow: FlowId, piece: u32, first_byte: Duration },
    /// The parent died at that time.
    Cut { at: Time },
}

impl World<'_> {
    pub(crate) fn start_fetch(&mut self, child: NodeIndex, parent: &PeerId, request: Request) {
        let parent = self.node_by_id[parent];
        let looked = (self.now, 0.0);
        let (begun_at, stage) = (self.now, Stage::Asked);
        let (digest, patience) = (request.digest, request.patience);
        let named_piece = match &request.wish {
            UploadWish::Piece { piece, .. } => Some(*piece),
            UploadWish::Any { .. } => None,
        };
        let fetch = Fetch { child, parent, request, begun_at, looked, stage };
        let id = FetchId(self.fetches.insert(fetch));
        let node = &mut self.nodes[child.place()];
        let former = match named_piece {
            Some(piece) => node.fetches.insert((digest, piece), id),
            None => node.takes.insert((digest, parent), id),
        };
        assert_eq!(former, None, "a core aborts a fetch before it starts another for the piece");
        self.queue.push(self.now + REQUEST, Event::Asked(id));
        self.queue.push(self.now + patience.stall, Event::MayStall(id));
        self.nodes[child.place()].met.insert(parent);
        self.nodes[parent.place()].met.insert(child);
    }

    /// The parent hears of the request; its core decides what becomes of it.
    pub(crate) fn asked(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get_mut(id.0) else { return };
        if !self.nodes[fetch.parent.place()].is_alive {
            return;
        }
        fetch.stage = Stage::Waiting;
        let (digest, wish, parent) = (fetch.request.digest, fetch.request.wish.clone(), fetch.parent);
        let child = self.nodes[fetch.child.place()].id.clone();
        self.tell_peer(parent, PeerInput::UploadAsked { upload: UploadId(id.0), child, digest, wish });
    }

    /// The request's turn has come.
    pub(crate) fn send_piece(&mut self, id: FetchId, piece: u32) {
        let fetch = self.fetches.get_mut(id.0).expect("a parent hears when a request ends");
        let path = path(&self.nodes[fetch.parent.place()].links, &self.nodes[fetch.child.place()].links);
        let bytes = fetch.request.layout.piece_size(piece).into();
        let flow = self.network.start(self.now, path, bytes, Cargo::Fetch(id));
        fetch.stage = Stage::Sending { flow, piece, first_byte: self.now - fetch.begun_at };
        fetch.looked = (self.now, 0.0);
        if let UploadWish::Any { .. } = fetch.request.wish {
            let (child, digest, parent) =
                (fetch.child, fetch.request.digest, self.nodes[fetch.parent.place()].id.clone());
            self.tell_peer(child, PeerInput::TakeBegun { digest, parent, piece });
        }
    }

    pub(crate) fn refuse(&mut self, id: FetchId, why: UploadRefusal) {
        let error = match why {
            UploadRefusal::Busy => FetchError::Busy,
            UploadRefusal::NotHeld => FetchError::NotHeld,
        };
        if let Some(fetch) = self.fetches.get_mut(id.0) {
            // Its parent has forgotten it.
            fetch.stage = Stage::Asked;
            self.fail_fetch(id, error);
        }
    }

    /// Counts what came into a zone over a narrow link. That a site passes a piece on to another
    /// is no second copy of it.
    fn count_crossing(&mut self, parent: NodeIndex, child: NodeIndex, bytes: u64) {
        let [from, to] = [parent, child].map(|node| &self.nodes[node.place()]);
        let is_narrow = from.links.zone.is_some() || to.links.zone.is_some();
        if from.spec.zone != to.spec.zone && is_narrow {
            let zone = to.spec.zone;
            let crossed = self.tally.crossed_bytes.entry(zone).or_default();
            *crossed += bytes;
            let (bytes, after) = (*crossed, self.now);
            let link = self.scenario.zone_links.iter().find(|link| link.zone == zone);
            let may_cross = |link: &ZoneLink| link.usable() * (after + link.lead()).as_secs_f64();
            if link.is_some_and(|link| link.budget.is_some() && bytes_f64(bytes) > may_cross(link)) {
                self.break_off(Violation::BudgetOverrun { zone, bytes, after });
            }
        }
    }

    /// The last byte arrived: the child verifies and writes.
    pub(crate) fn fetch_arrived(&mut self, id: FetchId) {
        let stage = self.fetches.get(id.0).expect("a flow's fetch is there").stage;
        let Stage::Sending { piece, first_byte, .. } = stage else { unreachable!("a fetch flows") };
        let (fetch, moved) = self.end_fetch(id, true).expect("a flow's fetch is there");
        if self.nodes[fetch.parent.place()].spec.corrupts {
            self.tally.wasted_bytes += moved;
            return self.tell_failure(fetch, FetchError::Corrupt);
        }
        let disk_full = self.nodes[fetch.child.place()].spec.disk_full;
        if disk_full {
            self.tally.wasted_bytes += moved;
            let (child, digest) = (fetch.child, fetch.request.digest);
            return self.tell_peer(child, PeerInput::GivenUp { digest, failure: disk_full_failure() });
        }
        let Fetch { child, parent, request: Request { digest, layout, wish, hearsay, .. }, .. } = fetch;
        self.tally.kept_bytes += moved;
        self.tally.kept_pieces += 1;
        self.hold(child, digest, layout, piece);
        let parent = self.nodes[parent.place()].id.clone();
        self.tell_peer(
            child,
            match wish {
                UploadWish::Piece { .. } => PeerInput::Fetched { digest, piece, hearsay, first_byte },
                UploadWish::Any { .. } => PeerInput::Taken { digest, parent, piece, first_byte },
            },
        );
    }

    /// The child looks how much came since it looked last, and gives up if that is too little.
    pub(crate) fn may_stall(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get_mut(id.0) else { return };
        let Patience { stall, least_bytes_per_s } = fetch.request.patience;
        let (since, moved) = match fetch.stage {
            Stage::Sending { flow, .. } => (fetch.looked.0, self.network.moved(self.now, flow)),
            Stage::Cut { at } => (at, fetch.looked.1),
            Stage::Asked | Stage::Waiting => (fetch.begun_at, 0.0),
        };
        let window = self.now - since;
        if window < stall {
            return self.queue.push(since + stall, Event::MayStall(id));
        }
        let least = bytes_f64(least_bytes_per_s) * window.as_secs_f64();
        if moved - fetch.looked.1 <= least {
            return self.fail_fetch(id, FetchError::Stalled);
        }
        fetch.looked = (self.now, moved);
        self.queue.push(self.now + stall, Event::MayStall(id));
    }

    fn fail_fetch(&mut self, id: FetchId, error: FetchError) {
        let (fetch, moved) = self.end_fetch(id, false).expect("the caller found it");
        self.tally.wasted_bytes += moved;
        self.tell_failure(fetch, error);
    }

    fn tell_failure(&mut self, fetch: Fetch, error: FetchError) {
        let Fetch { child, parent, request: Request { digest, wish, .. }, .. } = fetch;
        let parent = self.nodes[parent.place()].id.clone();
        self.tell_peer(
            child,
            match wish {
                UploadWish::Piece { piece, .. } => PeerInput::FetchFailed { digest, piece, error },
                UploadWish::Any { .. } => PeerInput::TakeFailed { digest, parent, error },
            },
        );
    }

    pub(crate) fn abort_fetch(&mut self, child: NodeIndex, digest: Digest, piece: u32) {
        if let Some(id) = self.nodes[child.place()].fetches.get(&(digest, piece)).copied() {
            self.abort(id);
        }
    }

    pub(crate) fn abort_take(&mut self, child: NodeIndex, digest: Digest, parent: &PeerId) {
        let parent = self.node_by_id[parent];
        if let Some(id) = self.nodes[child.place()].takes.get(&(digest, parent)).copied() {
            self.abort(id);
        }
    }

    fn abort(&mut self, id: FetchId) {
        if let Some((_, moved)) = self.end_fetch(id, false) {
            self.tally.wasted_bytes += moved;
        }
    }

    /// Takes a fetch out of all books; its parent gives the slot to the next. How many bytes of
    /// it were sent.
    fn end_fetch(&mut self, id: FetchId, delivered: bool) -> Option<(Fetch, u64)> {
        let fetch = self.fetches.remove(id.0)?;
        let child = &mut self.nodes[fetch.child.place()];
        match &fetch.request.wish {
            UploadWish::Piece { piece, .. } => drop(child.fetches.remove(&(fetch.request.digest, *piece))),
            UploadWish::Any { .. } => drop(child.takes.remove(&(fetch.request.digest, fetch.parent))),
        }
        let moved = match fetch.stage {
            Stage::Sending { flow, .. } => self.network.stop(self.now, flow),
            Stage::Asked | Stage::Waiting | Stage::Cut { .. } => 0,
        };
        self.count_crossing(fetch.parent, fetch.child, moved);
        if matches!(fetch.stage, Stage::Waiting | Stage::Sending { .. }) {
            self.tell_peer(fetch.parent, PeerInput::UploadEnded { upload: UploadId(id.0), delivered });
        }
        Some((fetch, moved))
    }

    /// A node is dead: what it fetched is not wanted any more, and what it sent stops.
    pub(crate) fn cut_fetches(&mut self, dead: NodeIndex) {
        let own: Vec<FetchId> = {
            let node = &self.nodes[dead.place()];
            node.fetches.values().chain(node.takes.values()).copied().collect()
        };
        for id in own {
            self.abort(id);
        }
        let sent: Vec<FetchId> = self
            .fetches
            .iter()
            .filter(|(_, fetch)| fetch.parent == dead)
            .map(|(id, _)| FetchId(id))
            .collect();
        for id in sent {
            let fetch = self.fetches.get_mut(id.0).expect("listed above");
            let (child, stall) = (fetch.child, fetch.request.patience.stall);
            if let Stage::Sending { flow, .. } =
                std::mem::replace(&mut fetch.stage, Stage::Cut { at: self.now })
            {
                let moved = self.network.stop(self.now, flow);
                self.tally.wasted_bytes += moved;
                self.count_crossing(dead, child, moved);
                self.queue.push(self.now + stall, Event::MayStall(id));
            }
        }
    }
}

/// Up, out of the zone, into the zone, down.
fn path(parent: &NodeLinks, child: &NodeLinks) -> Path {
    let crosses = parent.zone != child.zone;
    let out = parent.zone.filter(|_| crosses).map(|(out, _)| out);
    let into = child.zone.filter(|_| crosses).map(|(_, into)| into);
    [Some(parent.up), out, into, Some(child.down)].into_iter().flatten().collect()
}

fn disk_full_failure() -> Failure {
    let message = "the disk of this node is full".to_owned();
    Failure::new(507, "UNAVAILABLE", message, FailureCause::Region)
}

/// From a request to the first byte of its piece, or to its refusal.
const REQUEST: Duration = Duration::from_micros(300);
