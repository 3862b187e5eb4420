//! The regions that the gates are about (issue "The planner and its proof").
//!
//! What a gate leaves open is as in `docs/design.md` §4, or harder: 200 peers at 1 Gbit/s that
//! pull 512 MiB with σ = 0.3, from a seed that holds nothing and reads at 1 Gbit/s.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::scenario::{
    Crash, GBIT, MBIT, Manner, Moment, NodeSpec, Part, PlannerCosts, Scenario, Victim, ZoneLink,
};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        even_200(),
        even_200_64m(),
        kraken_2600(),
        slow_10pct(),
        two_zones(),
        narrow_budget(),
        edge_30x5(),
        trickle(),
        unequal(),
        power_off_5pct(),
        local(200, "local-200", "even-200; the peers pick their pieces by themselves"),
        local(2000, "local-2000", "even-200 with 2000 peers, which pick their pieces by themselves"),
        flash_10k(),
        overload_500(),
        lone_late(),
        ten_of_2600(),
        disk_full_10pct(),
        many_layers("many-layers", "200 peers pull 40 layers of 2 KiB to 300 MiB, three at a time", 3),
        many_layers("many-layers-at-once", "200 peers pull 40 layers of 2 KiB to 300 MiB, all at once", 40),
        far_scheduler(),
        seed_dies(),
        one_slow_seed(),
    ]
}

fn even_200() -> Scenario {
    let about = "200 peers at 1 Gbit/s pull 512 MiB together, σ = 0.3; the registry sends 1 Gbit/s";
    base("even-200", about, 200, vec![512 << 20])
}

fn even_200_64m() -> Scenario {
    base("even-200-64m", "even-200 with a blob of 64 MiB", 200, vec![64 << 20])
}

fn kraken_2600() -> Scenario {
    let about = "2600 peers at 300 MB/s pull two layers of 1.5 GB together from 5 seeds that hold them, \
                 σ = 0.3; clients take 1 GB/s";
    let rate = 300e6;
    let mut scenario = Scenario::even("kraken-2600", about, 2600, rate, vec![1_500_000_000; 2]);
    scenario.seeds = vec![NodeSpec { part: Part::Holds, ..NodeSpec::even(rate) }; 5];
    scenario.sigma = SIGMA;
    scenario.client.bytes_per_s = 1e9;
    scenario
}

fn slow_10pct() -> Scenario {
    let about = "even-200; every tenth peer has a quarter of the uplink, two peers are killed";
    let mut scenario = base("slow-10pct", about, 200, vec![512 << 20]);
    for peer in scenario.peers.iter_mut().step_by(10) {
        peer.up /= 4.0;
    }
    let killed = |peer, share| Crash {
        at: Moment::OfBound(share),
        victim: Victim::Peer(peer),
        manner: Manner::Killed,
    };
    scenario.crashes = vec![killed(55, 0.33), killed(140, 0.67)];
    scenario
}

fn two_zones() -> Scenario {
    let about = "even-200, half of the peers in a zone joined by a link of 1 Gbit/s each way";
    let mut scenario = base("two-zones", about, 200, vec![512 << 20]);
    for peer in scenario.peers.iter_mut().skip(1).step_by(2) {
        peer.zone = 1;
    }
    scenario.zone_links = vec![ZoneLink::of(1, GBIT)];
    scenario
}

fn narrow_budget() -> Scenario {
    let about = "50 peers at 1 Gbit/s pull 128 MiB, half of them in a zone behind a link of 1 Gbit/s, of which \
                 pieces may take 200 Mbit/s; σ = 0.3";
    let mut scenario = base("narrow-budget", about, 50, vec![128 << 20]);
    for peer in scenario.peers.iter_mut().skip(1).step_by(2) {
        peer.zone = 1;
    }
    let budget = NonZeroU64::new(25_000_000);
    scenario.zone_links = vec![ZoneLink { budget, ..ZoneLink::of(1, GBIT) }];
    scenario
}

fn edge_30x5() -> Scenario {
    let about = "30 sites of 5 peers at 1 Gbit/s, each site behind 50 Mbit/s, pull 512 MiB from a seed \
                 elsewhere, σ = 0.3";
    let mut scenario = base("edge-30x5", about, 150, vec![512 << 20]);
    for (zone, site) in (1..).zip(scenario.peers.chunks_mut(5)) {
        for peer in site {
            peer.zone = zone;
        }
        scenario.zone_links.push(ZoneLink::of(zone, 50.0 * MBIT));
    }
    scenario
}

fn trickle() -> Scenario {
    let about = "2000 peers at 1 Gbit/s arrive evenly over 30 s and pull 256 MiB, σ = 0.3";
    let mut scenario = base("trickle", about, 2000, vec![256 << 20]);
    for (place, peer) in (0..).zip(&mut scenario.peers) {
        peer.arrives = Duration::from_secs(30) * place / 2000;
    }
    scenario
}

fn unequal() -> Scenario {
    let about = "even-200; 3 of 10 peers have a tenth of the link, both ways";
    let mut scenario = base("unequal", about, 200, vec![512 << 20]);
    for (place, peer) in scenario.peers.iter_mut().enumerate() {
        if place % 10 < 3 {
            (peer.up, peer.down) = (peer.up / 10.0, peer.down / 10.0);
        }
    }
    scenario
}

fn power_off_5pct() -> Scenario {
    let about = "even-200; 10 peers lose power at one moment midway, and nobody is told";
    let mut scenario = base("power-off-5pct", about, 200, vec![512 << 20]);
    let off =
        |peer| Crash { at: Moment::OfBound(0.5), victim: Victim::Peer(peer), manner: Manner::PoweredOff };
    scenario.crashes = (0..10).map(|place| off(20 * place + 7)).collect();
    scenario
}

fn local(peers: usize, name: &'static str, about: &'static str) -> Scenario {
    let mut scenario = base(name, about, peers, vec![512 << 20]);
    scenario.planner.told_load_percent = Some(100);
    scenario
}

fn flash_10k() -> Scenario {
    let about = "10 000 peers at 1 Gbit/s pull 1 GiB together, 3 seeds that hold nothing, the registry \
                 sends 1 Gbit/s; the planner takes 5 µs an assignment, as its gate allows";
    let mut scenario = Scenario::even("flash-10k", about, 10_000, GBIT, vec![1 << 30]);
    scenario.seeds = vec![NodeSpec::member(GBIT); 3];
    scenario.planner.costs = Some(PLANNER_COSTS);
    scenario
}

fn overload_500() -> Scenario {
    let about = "500 peers at 1 Gbit/s pull 512 MiB together, and the planner is 20 times as slow";
    let mut scenario = Scenario::even("overload-500", about, 500, GBIT, vec![512 << 20]);
    let PlannerCosts { assignment, report, piece } = PLANNER_COSTS;
    let costs = PlannerCosts { assignment: assignment * 20, report: report * 20, piece: piece * 20 };
    scenario.planner.costs = Some(costs);
    scenario
}

fn lone_late() -> Scenario {
    let about = "150 of 200 peers hold 512 MiB, the seed does not; one more wants it, σ = 0.3";
    let mut scenario = base("lone-late", about, 200, vec![512 << 20]);
    for peer in &mut scenario.peers[..150] {
        peer.part = Part::Holds;
    }
    for peer in &mut scenario.peers[151..] {
        peer.part = Part::Nothing;
    }
    scenario
}

fn ten_of_2600() -> Scenario {
    let about = "10 of 2600 peers at 1 Gbit/s pull 512 MiB that nobody holds, σ = 0.3";
    let mut scenario = base("ten-of-2600", about, 2600, vec![512 << 20]);
    for (place, peer) in scenario.peers.iter_mut().enumerate() {
        if place % 260 != 130 {
            peer.part = Part::Nothing;
        }
    }
    scenario
}

fn disk_full_10pct() -> Scenario {
    let about = "even-200; the disks of every tenth peer take nothing";
    let mut scenario = base("disk-full-10pct", about, 200, vec![512 << 20]);
    for peer in scenario.peers.iter_mut().skip(5).step_by(10) {
        peer.disk_full = true;
    }
    scenario
}

fn many_layers(name: &'static str, about: &'static str, at_once: usize) -> Scenario {
    let mut scenario = base(name, about, 200, log_normal_sizes());
    scenario.client.blobs_at_once = at_once;
    scenario
}

fn far_scheduler() -> Scenario {
    let about = "even-200 with control messages that take 10 ms ± 50 % one way, in batches of 20 ms";
    let mut scenario = base("far-scheduler", about, 200, vec![512 << 20]);
    scenario.control.one_way = Duration::from_millis(10);
    scenario.control.batch = Duration::from_millis(20);
    scenario
}

fn seed_dies() -> Scenario {
    let about = "50 peers at 1 Gbit/s pull 256 MiB, σ = 0.3; of two seeds, which read at ten times the \
                 link, the one that reads is killed, with each --seed at another moment";
    let mut scenario = base("seed-dies", about, 50, vec![256 << 20]);
    scenario.registry.bytes_per_s *= 10.0;
    scenario.seeds = vec![NodeSpec { down: 10.0 * GBIT, ..NodeSpec::member(GBIT) }; 2];
    scenario.crashes = vec![Crash { at: Moment::Varied, victim: Victim::HomeSeed, manner: Manner::Killed }];
    scenario
}

fn one_slow_seed() -> Scenario {
    let about = "even-200 with three seeds, of which the one that reads has a tenth of the link";
    let mut scenario = base("one-slow-seed", about, 200, vec![512 << 20]);
    scenario.seeds = vec![NodeSpec::member(GBIT); 3];
    scenario.home_seed_rate = 0.1;
    scenario
}

/// What most of them are made from.
fn base(name: &'static str, about: &'static str, peers: usize, blobs: Vec<u64>) -> Scenario {
    let mut scenario = Scenario::even(name, about, peers, GBIT, blobs);
    scenario.sigma = SIGMA;
    scenario
}

/// 40 quantiles of a log-normal from 2 KiB to 300 MiB (median 784 KiB), in an order in which
/// large and small alternate: layers are where a Dockerfile put them.
fn log_normal_sizes() -> Vec<u64> {
    (0..40_u32).map(|place| LAYER_SIZES[(place * 23 % 40) as usize]).collect()
}

/// In bytes, by size: `exp(ln 784 KiB + 2.66 · z)` at the quantiles (k + ½)/40.
const LAYER_SIZES: [u64; 40] = [
    2_048,
    6_992,
    13_478,
    21_644,
    31_677,
    43_810,
    58_319,
    75_533,
    95_838,
    119_684,
    147_605,
    180_227,
    218_290,
    262_676,
    314_433,
    374_819,
    445_350,
    527_867,
    624_616,
    738_361,
    872_533,
    1_031_426,
    1_220_468,
    1_446_603,
    1_718_817,
    2_048_911,
    2_452_622,
    2_951_321,
    3_574_638,
    4_364_659,
    5_382_877,
    6_722_258,
    8_529_266,
    11_046_845,
    14_705_441,
    20_337_679,
    29_765_507,
    47_800_183,
    92_137_735,
    314_572_800,
];

const SIGMA: f64 = 0.3;

/// The planner at 10 000 peers: for an assignment what its gate of 200 000 a second allows, for the
/// rest twice what `cargo bench -p flotilla-scheduler-core -- handed_over` says.
const PLANNER_COSTS: PlannerCosts = PlannerCosts {
    assignment: Duration::from_micros(5),
    report: Duration::from_nanos(600),
    piece: Duration::from_nanos(300),
};
