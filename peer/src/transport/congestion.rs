//! Congestion control between peers: CUBIC, held to what the path can carry.
//!
//! Inside a region round trips are far below a millisecond. CUBIC's window then grows until a
//! shallow switch drops packets, and it stays that large while a connection rests, so that the
//! next burst leaves at once. Measured through a 1 Gbit/s link with 256 KiB of buffer, 7 to 9 %
//! of the packets were lost (`docs/design.md` §5). Hence two rules around it: a
//! window of at most twice what the path was seen to carry, and a fresh start after a rest.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// Makes the controllers of an endpoint's connections.
#[derive(Debug)]
pub(super) struct Capped(Arc<CubicConfig>);

impl Capped {
    /// Controllers that start, and start again, with `initial_window` bytes.
    pub(super) fn new(initial_window: u64) -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(initial_window);
        Self(Arc::new(cubic))
    }
}

impl ControllerFactory for Capped {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(self.0.clone(), now, current_mtu);
        Box::new(CappedCubic {
            config: self.0.clone(),
            cubic,
            mtu: current_mtu,
            delivery: Delivery::new(now),
            min_rtt: None,
            sent_at: now,
        })
    }
}

/// One connection's controller.
#[derive(Debug, Clone)]
struct CappedCubic {
    config: Arc<CubicConfig>,
    cubic: Cubic,
    mtu: u16,
    delivery: Delivery,
    min_rtt: Option<Duration>,
    sent_at: Instant,
}

impl CappedCubic {
    /// Bytes that may be in flight, whatever CUBIC thinks. The least round trip counts, not the
    /// smoothed one: a queue that this window built must not justify it.
    fn cap(&self) -> u64 {
        let bdp = self.min_rtt.map_or(0.0, |rtt| self.delivery.bytes_per_s * rtt.as_secs_f64());
        (2.0 * bdp).max(WINDOW_FLOOR as f64) as u64
    }
}

impl Controller for CappedCubic {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        if now.saturating_duration_since(self.sent_at) >= REST {
            self.cubic = Cubic::new(self.config.clone(), now, self.mtu);
            self.delivery = Delivery::new(now);
        }
        self.sent_at = now;
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.min_rtt = Some(rtt.min());
        self.delivery.acknowledged(now, bytes, rtt.get());
        // A window that is not used must not grow: a loss would then shrink what counts nothing.
        if self.cubic.window() < self.cap() {
            self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().min(self.cap())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The rate at which the other end takes bytes: the best of late, forgotten slowly.
#[derive(Debug, Clone)]
struct Delivery {
    bytes_per_s: f64,
    since: Instant,
    bytes: u64,
}

impl Delivery {
    fn new(now: Instant) -> Self {
        Self { bytes_per_s: 0.0, since: now, bytes: 0 }
    }

    /// Counts what was acknowledged, over a round trip at least: within one, acknowledgements
    /// come in bursts.
    fn acknowledged(&mut self, now: Instant, bytes: u64, rtt: Duration) {
        self.bytes += bytes;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= rtt.max(SAMPLE_LEAST) {
            let sample = self.bytes as f64 / elapsed.as_secs_f64();
            self.bytes_per_s = sample.max(self.bytes_per_s * FORGET);
            self.since = now;
            self.bytes = 0;
        }
    }
}

/// Bytes: a connection may have as many in flight whatever was measured. Enough for 1 Gbit/s at
/// 8 ms.
const WINDOW_FLOOR: u64 = 1 << 20;

/// A connection that sent nothing for so long starts anew.
const REST: Duration = Duration::from_secs(1);

/// A rate is measured over so long at least.
const SAMPLE_LEAST: Duration = Duration::from_millis(10);

/// What is left of an old rate with each new sample: half of it after 22.
const FORGET: f64 = 31.0 / 32.0;

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1452;
    const INITIAL: u64 = 64 << 10;

    /// The controller as the endpoint makes it.
    fn controller(now: Instant) -> CappedCubic {
        let built = Arc::new(Capped::new(INITIAL)).build(now, MTU);
        *built.into_any().downcast().expect("the factory builds this type")
    }

    fn at(base: Instant, millis: u64) -> Instant {
        base + Duration::from_millis(millis)
    }

    #[test]
    fn a_connection_starts_small_and_its_window_never_passes_the_cap() {
        let base = Instant::now();
        let mut controller = controller(base);
        assert_eq!(controller.window(), INITIAL);
        let cubic = CubicConfig::default().initial_window(1 << 30).clone();
        controller.cubic = Cubic::new(Arc::new(cubic), base, MTU);
        assert_eq!(controller.window(), WINDOW_FLOOR);
    }

    #[test]
    fn a_long_fat_path_gets_twice_what_it_carries() {
        let base = Instant::now();
        let mut controller = controller(base);
        controller.min_rtt = Some(Duration::from_millis(50));
        // 100 MB/s for 200 ms.
        for tick in 1..=20 {
            controller.delivery.acknowledged(at(base, 10 * tick), 1_000_000, Duration::from_millis(10));
        }
        let expected = 2.0 * 100e6 * 0.050;
        assert!((controller.cap() as f64 - expected).abs() < 0.01 * expected, "{}", controller.cap());
    }

    #[test]
    fn a_rate_is_forgotten_slowly() {
        let base = Instant::now();
        let mut delivery = Delivery::new(base);
        delivery.acknowledged(at(base, 10), 1_000_000, Duration::from_millis(1));
        assert_eq!(delivery.bytes_per_s, 100e6);
        for tick in 2..=23 {
            delivery.acknowledged(at(base, 10 * tick), 1, Duration::from_millis(1));
        }
        assert!((45e6..55e6).contains(&delivery.bytes_per_s), "{}", delivery.bytes_per_s);
    }

    #[test]
    fn a_rest_brings_the_window_back_to_its_start() {
        let base = Instant::now();
        let mut controller = controller(base);
        let grown = CubicConfig::default().initial_window(512 << 10).clone();
        controller.cubic = Cubic::new(Arc::new(grown), base, MTU);
        controller.on_sent(at(base, 900), 1200, 1);
        assert_eq!(controller.window(), 512 << 10);
        controller.on_sent(at(base, 1901), 1200, 2);
        assert_eq!(controller.window(), INITIAL);
    }
}
