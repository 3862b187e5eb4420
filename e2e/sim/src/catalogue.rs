//! The scenarios that `cargo sim` knows.

use std::time::Duration;

use crate::scenario::{Crash, GBIT, MBIT, NodeSpec, Scenario, Victim};

/// All scenarios, in the order in which they are listed.
pub fn all() -> Vec<Scenario> {
    vec![
        even_12(),
        even_50(),
        even_200(),
        small_images(),
        late_joiners(),
        seed_dies(),
        seed_dies_even(),
        peer_dies(),
        corrupt_parent(),
    ]
}

/// The scenario of that name.
///
/// # Errors
/// If there is none; the error names the nearest.
pub fn find(name: &str) -> Result<Scenario, UnknownScenario> {
    let scenarios = all();
    let distance = |scenario: &Scenario| strsim::damerau_levenshtein(scenario.name, name);
    let nearest =
        scenarios.iter().min_by_key(|scenario| distance(scenario)).expect("there are scenarios").name;
    let found = scenarios.into_iter().find(|scenario| scenario.name == name);
    found.ok_or_else(|| UnknownScenario { name: name.to_owned(), nearest })
}

fn even_12() -> Scenario {
    let about = "12 peers at 200 Mbit/s pull 128 MiB together";
    Scenario::even("even-12", about, 12, 200.0 * MBIT, vec![128 << 20])
}

fn even_50() -> Scenario {
    Scenario::even("even-50", "50 peers at 1 Gbit/s pull 64 MiB together", 50, GBIT, vec![64 << 20])
}

fn even_200() -> Scenario {
    Scenario::even("even-200", "200 peers at 1 Gbit/s pull 512 MiB together", 200, GBIT, vec![512 << 20])
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

fn seed_dies() -> Scenario {
    let about = "20 peers at 200 Mbit/s pull 128 MiB; the seed that reads it ten times as fast dies midway";
    let mut scenario = with_dying_seed("seed-dies", about);
    scenario.registry.bytes_per_s *= 10.0;
    for seed in &mut scenario.seeds {
        seed.down *= 10.0;
    }
    scenario
}

fn seed_dies_even() -> Scenario {
    with_dying_seed("seed-dies-even", "as seed-dies, with a registry no faster than the links")
}

fn with_dying_seed(name: &'static str, about: &'static str) -> Scenario {
    let rate = 200.0 * MBIT;
    let mut scenario = Scenario::even(name, about, 20, rate, vec![128 << 20]);
    scenario.seeds = vec![NodeSpec::even(rate); 2];
    scenario.crashes = vec![Crash { at: Duration::from_millis(2700), victim: Victim::HomeSeed }];
    scenario
}

fn peer_dies() -> Scenario {
    let about = "12 peers at 200 Mbit/s pull 128 MiB; one of them dies midway";
    let mut scenario = Scenario::even("peer-dies", about, 12, 200.0 * MBIT, vec![128 << 20]);
    scenario.crashes = vec![Crash { at: Duration::from_millis(2700), victim: Victim::Peer(3) }];
    scenario
}

fn corrupt_parent() -> Scenario {
    let about = "12 peers at 200 Mbit/s pull 128 MiB; whatever one of them sends is corrupt";
    let mut scenario = Scenario::even("corrupt-parent", about, 12, 200.0 * MBIT, vec![128 << 20]);
    scenario.peers[3].corrupts = true;
    scenario
}

/// A name that no scenario has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no scenario is called `{name}`; did you mean `{nearest}`? `cargo sim -- list` shows them all")]
pub struct UnknownScenario {
    /// What was asked for.
    pub name: String,
    /// What is most like it.
    pub nearest: &'static str,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        let names: BTreeSet<&str> = all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().len());
        for name in names {
            assert_eq!(find(name).unwrap().name, name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        assert_eq!(find("even12").unwrap_err().nearest, "even-12");
        assert_eq!(find("seed-die").unwrap_err().nearest, "seed-dies");
    }
}
