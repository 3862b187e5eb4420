//! How fast pieces come in, over all downloads: what sizes the window of a peer that picks.

use std::time::{Duration, Instant};

/// The most that came in of late.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    span_begun_at: Option<Instant>,
    span_bytes: u64,
    /// Bytes in the best span, fading.
    peak: f64,
}

impl Intake {
    /// Bytes of pieces came.
    pub(crate) fn landed(&mut self, now: Instant, bytes: u32) {
        let begun_at = *self.span_begun_at.get_or_insert(now);
        let spans = now.saturating_duration_since(begun_at).as_secs_f64() / SPAN.as_secs_f64();
        if spans >= 1.0 {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes come in a span")]
            let rate = self.span_bytes as f64 / spans;
            self.peak = rate.max(self.peak * FADING.powf(spans));
            (self.span_begun_at, self.span_bytes) = (Some(now), 0);
        }
        self.span_bytes += u64::from(bytes);
    }

    /// How many pieces of that length a download asks for at a time: what came in a span at
    /// best, so that a slow link does not hold slots of many parents that it cannot use.
    pub(crate) fn window(&self, piece_len: u32) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let pieces = (self.peak / f64::from(piece_len)).ceil() as usize;
        pieces.clamp(MIN_WINDOW, MAX_WINDOW)
    }
}

/// Twice what a parent with eight uploads under way and four queued needs for them on an even
/// link, with pieces of a thousandth of a second's worth and more.
const SPAN: Duration = Duration::from_millis(100);

/// What is left of a peak after a span.
const FADING: f64 = 0.98;

/// With fewer, uplinks stand idle between a piece and the request for the next.
const MIN_WINDOW: usize = 8;

/// W of `docs/design.md` §4; as many requests as a parent takes, eight sent and four queued.
const MAX_WINDOW: usize = 12;

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // a test may read the clock

    use super::*;

    fn window_at(bytes_per_ms: u32) -> usize {
        let (mut intake, now) = (Intake::default(), Instant::now());
        for ms in 0..1000 {
            intake.landed(now + Duration::from_millis(ms), bytes_per_ms);
        }
        intake.window(512 << 10)
    }

    #[test]
    fn the_window_follows_what_comes_in_between_its_bounds() {
        assert_eq!(Intake::default().window(512 << 10), MIN_WINDOW);
        assert_eq!([window_at(1250), window_at(52_000), window_at(125_000)], [MIN_WINDOW, 10, MAX_WINDOW]);
    }
}
