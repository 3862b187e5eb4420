//! Small regions, for tests: each runs in a second or so.

use std::time::Duration;

use crate::scenario::{Crash, GBIT, MBIT, Manner, Moment, NodeSpec, Scenario, Victim};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        even_12(),
        even_50(),
        small_images(),
        late_joiners(),
        seed_dies_even(),
        peer_dies(),
        corrupt_parent(),
        shaky_control(),
    ]
}

fn even_12() -> Scenario {
    let about = "12 peers at 200 Mbit/s pull 128 MiB together";
    Scenario::even("even-12", about, 12, 200.0 * MBIT, vec![128 << 20])
}

fn even_50() -> Scenario {
    Scenario::even("even-50", "50 peers at 1 Gbit/s pull 64 MiB together", 50, GBIT, vec![64 << 20])
}

fn small_images() -> Scenario {
    let sizes = vec![1, 100, 1 << 10, 3 << 10, 10 << 10, 20 << 10, 32_000, 50_000, 80_000, 100 << 10];
    Scenario::even("small-images", "20 peers pull ten blobs of 1 B to 100 KiB together", 20, GBIT, sizes)
}

fn late_joiners() -> Scenario {
    let about = "20 peers at 200 Mbit/s pull 64 MiB; ten of them come one by one, some when all is done";
    let mut scenario = Scenario::even("late-joiners", about, 20, 200.0 * MBIT, vec![64 << 20]);
    for (place, peer) in (1..).zip(&mut scenario.peers[10..]) {
        peer.arrives = Duration::from_millis(400) * place;
    }
    scenario
}

fn seed_dies_even() -> Scenario {
    let about = "20 peers at 200 Mbit/s pull 128 MiB; of two seeds the one that reads dies midway";
    let rate = 200.0 * MBIT;
    let mut scenario = Scenario::even("seed-dies-even", about, 20, rate, vec![128 << 20]);
    scenario.seeds = vec![NodeSpec::member(rate); 2];
    scenario.crashes = vec![killed(Victim::HomeSeed)];
    scenario
}

fn peer_dies() -> Scenario {
    let about = "12 peers at 200 Mbit/s pull 128 MiB; one of them dies midway";
    let mut scenario = Scenario::even("peer-dies", about, 12, 200.0 * MBIT, vec![128 << 20]);
    scenario.crashes = vec![killed(Victim::Peer(3))];
    scenario
}

fn corrupt_parent() -> Scenario {
    let about = "12 peers at 200 Mbit/s pull 128 MiB; whatever one of them sends is corrupt";
    let mut scenario = Scenario::even("corrupt-parent", about, 12, 200.0 * MBIT, vec![128 << 20]);
    scenario.peers[3].corrupts = true;
    scenario
}

fn shaky_control() -> Scenario {
    let about = "even-50; 1 control message of 5000 is lost and breaks its stream, 1 of 1000 is 50 ms late and holds up those behind it";
    let mut scenario = Scenario { name: "shaky-control", about, ..even_50() };
    scenario.control.lost_per_million = 200;
    scenario.control.late_per_mille = 1;
    scenario.control.late_by = Duration::from_millis(50);
    scenario
}

fn killed(victim: Victim) -> Crash {
    Crash { at: Moment::At(Duration::from_millis(2700)), victim, manner: Manner::Killed }
}
