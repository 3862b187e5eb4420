//! What crosses between zones, seen from outside.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Layout, PieceHash, PieceSet};
use flotilla_scheduler_core::{Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};

const SIZE: u64 = 16 << 20;
const BUDGET: u64 = 10_000_000;
const HOLDERS: u32 = 2;
const CHILDREN: u32 = 6;
const PIECE_TAKES: Duration = Duration::from_millis(5);

/// Two peers of zone 0 hold a blob that six of zone 1 want; each piece takes 5 ms.
struct Region {
    scheduler: Scheduler,
    started_at: Instant,
    now: Instant,
    /// When the last piece landed.
    landed_at: Instant,
    /// What lands when: the child, and the piece.
    landings: BTreeMap<Instant, Vec<(PeerKey, u32)>>,
    /// When which bytes began to cross.
    crossings: Vec<(Duration, u64)>,
}

impl Region {
    fn new(seed: u64, limited: Zone) -> Self {
        let started_at = Instant::now();
        let scheduler = Scheduler::new(Limits::default(), seed);
        let (landings, crossings) = (BTreeMap::new(), Vec::new());
        let (now, landed_at) = (started_at, started_at);
        let mut region = Self { scheduler, started_at, now, landed_at, landings, crossings };
        region.limit(limited, NonZeroU64::new(BUDGET));
        for peer in (0..HOLDERS + CHILDREN).map(PeerKey) {
            let id = format!("peer-{}", peer.0).parse().unwrap();
            let zone = Zone(u32::from(peer.0 >= HOLDERS));
            region.input(Input::PeerJoined { peer, facts: PeerFacts { id, seed: false, zone } });
        }
        for peer in (0..HOLDERS).map(PeerKey) {
            region.announce(peer, PieceSet::full(layout().piece_count()));
        }
        for peer in (HOLDERS..HOLDERS + CHILDREN).map(PeerKey) {
            region.input(Input::Wanted { peer, digest: digest(), size: SIZE, part: None, reader: false });
        }
        region
    }

    fn limit(&mut self, zone: Zone, bytes_per_s: Option<NonZeroU64>) {
        self.input(Input::LinkLimited { zone, bytes_per_s });
    }

    fn announce(&mut self, peer: PeerKey, pieces: PieceSet) {
        let hashes = pieces.iter().map(|piece| PieceHash::of(&piece.to_le_bytes())).collect();
        self.input(Input::Announced { peer, digest: digest(), size: SIZE, pieces, hashes });
    }

    fn input(&mut self, input: Input) {
        self.scheduler.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.scheduler.poll_output() {
            let Output::Assign { child, parent, piece, .. } = output else { continue };
            self.landings.entry(self.now + PIECE_TAKES).or_default().push((child, piece));
            if parent.0 < HOLDERS {
                let bytes = layout().piece_size(piece).into();
                self.crossings.push((self.now - self.started_at, bytes));
            }
        }
        assert_eq!(self.scheduler.find_idle(self.now), None);
    }

    /// Lets everything happen until nothing is on its way, or due.
    fn settle(&mut self) {
        loop {
            let landing = self.landings.keys().next().copied();
            let Some(at) = landing.into_iter().chain(self.scheduler.poll_timeout()).min() else { return };
            self.now = self.now.max(at);
            self.scheduler.handle_timeout(self.now);
            self.drain();
            for (child, piece) in self.landings.remove(&at).into_iter().flatten() {
                let mut pieces = PieceSet::new(layout().piece_count());
                pieces.insert(piece);
                self.landed_at = self.now;
                self.announce(child, pieces);
            }
        }
    }

    fn crossed_bytes(&self) -> u64 {
        self.crossings.iter().map(|(_, bytes)| bytes).sum()
    }
}

fn digest() -> Digest {
    Digest::of(b"crosses")
}

fn layout() -> Layout {
    Layout::of(SIZE).unwrap()
}

#[test]
fn a_link_with_a_budget_is_used_up_to_it_and_no_further() {
    // The way out of the holders' zone, and the way into the children's.
    for (seed, zone) in (0..8).zip([Zone(0), Zone(1)].into_iter().cycle()) {
        let mut region = Region::new(seed, zone);
        region.settle();
        assert_eq!(region.crossed_bytes(), SIZE, "each piece crosses once");
        for (first, (from, _)) in region.crossings.iter().enumerate() {
            let mut bytes = 0;
            for (at, more) in &region.crossings[first..] {
                let stretch = *at - *from + Duration::from_millis(100);
                let allowed = u128::from(BUDGET) * stretch.as_nanos() / 1_000_000_000;
                assert!(u128::from(bytes) <= allowed + 1, "{bytes} bytes in {stretch:?}, the burst included");
                bytes += *more;
            }
        }
        let least = Duration::from_secs_f64(SIZE as f64 / BUDGET as f64);
        let took = region.landed_at - region.started_at;
        assert!(took < least + 20 * PIECE_TAKES, "{took:?} for what the budget lets through in {least:?}");
    }
}

#[test]
fn a_budget_that_is_lifted_holds_nothing_back() {
    let mut region = Region::new(0, Zone(1));
    region.limit(Zone(1), None);
    region.settle();
    let took = region.landed_at - region.started_at;
    assert_eq!(region.crossed_bytes(), SIZE);
    assert!(took < Duration::from_secs_f64(SIZE as f64 / BUDGET as f64 / 2.0), "{took:?}");
}
