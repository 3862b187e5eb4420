//! The links between zones: how many pieces may be on their way across at a time.
//!
//! A piece crosses into a zone once. So few pieces as fill the link are let across at once:
//! more would only stretch each other's way, until they time out. What fills it is measured:
//! the most that came through of late, times the shortest that a piece took, is what the link
//! holds (as BBR finds a path's capacity; Cardwell et al. 2016); half as much again, or more where
//! pieces are quick, finds out whether there is more. Where the link may not be filled, a budget
//! keeps what crosses to a rate, each way.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use flotilla_proto::TokenBucket;

/// A zone's place among those that peers were ever in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct ZonePlace(pub(crate) u32);

/// The two directions of a zone's link to all others.
#[derive(Debug, Default)]
pub(crate) struct ZoneLink {
    pub(crate) inbound: Gate,
    pub(crate) outbound: Gate,
}

/// Across a zone's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    In,
    Out,
}

impl ZoneLink {
    pub(crate) fn gate(&self, way: Way) -> &Gate {
        match way {
            Way::In => &self.inbound,
            Way::Out => &self.outbound,
        }
    }

    /// Keeps each direction to a rate, in bytes per second; `None`: to what it carries.
    pub(crate) fn limit(&mut self, bytes_per_s: Option<NonZeroU64>) {
        for gate in [&mut self.inbound, &mut self.outbound] {
            gate.budget = bytes_per_s.map(|bytes_per_s| TokenBucket::new(bytes_per_s, BURST));
        }
    }
}

/// Lets pieces across one direction of a link.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// What may start across, where that is limited. What was lost on its way counts, too.
    budget: Option<TokenBucket>,
    bytes: u64,
    count: u32,
    window: Option<(Instant, u64)>,
    /// The most that came through in a window, in bytes per second; wears off.
    rate: f64,
    /// The shortest that a piece took; wears off.
    shortest: Option<Duration>,
}

impl Gate {
    /// Whether one more piece of that length may be on its way.
    pub(crate) fn is_open(&self, now: Instant, piece_len: u32) -> bool {
        if self.budget.as_ref().is_some_and(|budget| !budget.is_open(now)) {
            return false;
        }
        let time = self.shortest.map(|shortest| (shortest * 5).min(SHARED).max(shortest * 3 / 2));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, and positive")]
        let wanted = time.map_or(0, |time| (self.rate * time.as_secs_f64()) as u64);
        self.count < COUNT_MIN || self.bytes + u64::from(piece_len) <= wanted
    }

    /// A piece starts across. When the budget lets the next one, if that is later than now.
    pub(crate) fn launch(&mut self, now: Instant, bytes: u32) -> Option<Instant> {
        self.count += 1;
        self.bytes += u64::from(bytes);
        self.window.get_or_insert((now, 0));
        let budget = self.budget.as_mut()?;
        budget.take(now, bytes);
        budget.opens_at().filter(|at| *at > now)
    }

    /// A piece is across, `took` after it was planned; `None` if it did not arrive.
    pub(crate) fn land(&mut self, now: Instant, bytes: u64, took: Option<Duration>) {
        self.count -= 1;
        self.bytes -= bytes;
        let Some(took) = took else { return };
        self.shortest = Some(match self.shortest {
            Some(known) if took > known => known + (took - known) / 4096,
            _ => took,
        });
        let (began_at, landed) = self.window.get_or_insert((now, 0));
        *landed += bytes;
        let time = now.saturating_duration_since(*began_at);
        if time >= WINDOW.max(2 * took) {
            #[expect(clippy::cast_precision_loss, reason = "bytes of a fraction of a second")]
            let sample = *landed as f64 / time.as_secs_f64();
            self.rate = sample.max(self.rate * RATE_KEPT);
            self.window = Some((now, 0));
        }
    }
}

/// How far ahead of its budget a link may be: as long as its rate is measured over.
const BURST: Duration = WINDOW;

/// So many may be on their way in any case.
const COUNT_MIN: u32 = 4;

/// Where links are fast, a piece on its way takes several times the shortest, for it shares the
/// uplink and the downlink at its ends with others: so long, at most, is allowed for. Two zones
/// joined by a link of 1 Gbit/s: 1.39 × the bound without, 1.11 with it.
const SHARED: Duration = Duration::from_millis(60);

/// Long enough for several pieces.
const WINDOW: Duration = Duration::from_millis(100);

/// What is left of the greatest rate after a window that was slower.
const RATE_KEPT: f64 = 0.97;
