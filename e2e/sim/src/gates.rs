//! The gates: which figure of which scenario may be how large.

use crate::Report;

/// One figure of one scenario, and what it may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The figure's name, as in the report.
    pub figure: &'static str,
    value: fn(&Report) -> f64,
    most: fn(&Report) -> f64,
    over: Over,
}

/// Which of several seeds' figures counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The median one.
    Median,
    /// The worst one.
    Worst,
}

/// What a gate came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The figure.
    pub value: f64,
    /// What it may be at most.
    pub most: f64,
}

impl Outcome {
    /// Whether the figure is within the gate.
    pub fn passes(&self) -> bool {
        self.value <= self.most
    }
}

impl Gate {
    /// The outcome over the histories of some seeds.
    ///
    /// # Panics
    /// If there are none.
    pub fn outcome(&self, reports: &[Report]) -> Outcome {
        let mut outcomes: Vec<Outcome> = reports
            .iter()
            .map(|report| Outcome { value: (self.value)(report), most: (self.most)(report) })
            .collect();
        outcomes.sort_by(|a, b| (a.value - a.most).total_cmp(&(b.value - b.most)));
        match self.over {
            Over::Median => outcomes[outcomes.len() / 2],
            Over::Worst => *outcomes.last().expect("at least one history"),
        }
    }
}

/// The gates of one scenario.
pub fn of(scenario: &str) -> Vec<Gate> {
    let own = OWN.iter().filter(|gate| gate.scenario == scenario);
    let may_read_again = SEEDS_DIE.contains(&scenario);
    let common = COMMON.iter().filter(|gate| !(may_read_again && gate.figure == SOURCE_RATIO));
    let Some(name) = GATED.iter().find(|name| **name == scenario) else { return Vec::new() };
    own.copied().chain(common.map(|gate| Gate { scenario: name, ..*gate })).collect()
}

/// The scenarios that have gates, in the order of the table.
pub const GATED: &[&str] = &[
    "even-200",
    "two-zones",
    "narrow-budget",
    "edge-30x5",
    "trickle",
    "unequal",
    "power-off-5pct",
    "local-200",
    "local-2000",
    "seed-dies",
    "lone-late",
    "ten-of-2600",
    "even-200-64m",
    "kraken-2600",
    "slow-10pct",
    "far-scheduler",
    "many-layers",
    "many-layers-at-once",
    "flash-10k",
    "overload-500",
    "disk-full-10pct",
    "corrupt-parent",
    "one-slow-seed",
];

/// Those that run in a few minutes on one core, for every landing.
pub const QUICK: &[&str] = &[
    "even-200",
    "two-zones",
    "narrow-budget",
    "unequal",
    "power-off-5pct",
    "local-200",
    "seed-dies",
    "lone-late",
    "even-200-64m",
    "slow-10pct",
    "far-scheduler",
    "overload-500",
    "disk-full-10pct",
    "corrupt-parent",
];

const SOURCE_RATIO: &str = "source_ratio";

/// Where a seed dies, what it alone held is read again.
const SEEDS_DIE: &[&str] = &["seed-dies"];

const OWN: &[Gate] = &[
    median("even-200", "ratio_last", |report| report.ratio_last, |_| 1.12),
    median("even-200", "ratio_client_last", |report| report.ratio_client_last, |_| 1.20),
    median(
        "even-200",
        "longest_silence_s",
        |report| report.longest_silence_s,
        |report| 0.1 * report.lower_bound_s + 0.3,
    ),
    median("two-zones", "zone_copies", |report| report.zone_copies, |_| 1.05),
    median("two-zones", "ratio_last", |report| report.ratio_last, |_| 1.3),
    median("narrow-budget", "zone_copies", |report| report.zone_copies, |_| 1.05),
    median("narrow-budget", "ratio_last", |report| report.ratio_last, |_| 1.3),
    median("edge-30x5", "zone_copies", |report| report.zone_copies, |_| 1.05),
    median("edge-30x5", "ratio_last", |report| report.ratio_last, |_| 1.3),
    median("trickle", "ratio_own_p99", |report| report.ratio_own_p99, |_| 1.3),
    median("unequal", "ratio_own_p99", |report| report.ratio_own_p99, |_| 1.3),
    median("power-off-5pct", "ratio_own_p99", |report| report.ratio_own_p99, |_| 1.3),
    median("local-200", "ratio_last", |report| report.ratio_last, |_| 1.20),
    median("local-2000", "ratio_last", |report| report.ratio_last, |_| 1.30),
    Gate { over: Over::Worst, ..median("seed-dies", SOURCE_RATIO, |report| report.source_ratio, |_| 1.10) },
    median("lone-late", "ratio_last", |report| report.ratio_last, |_| 1.15),
    median("ten-of-2600", "ratio_last", |report| report.ratio_last, |_| 1.15),
    median("even-200-64m", "ratio_last", |report| report.ratio_last, |_| 1.20),
    median("kraken-2600", "ratio_p50", |report| report.ratio_p50, |_| 1.05),
    median("kraken-2600", "ratio_p99", |report| report.ratio_p99, |_| 1.10),
    median("kraken-2600", "ratio_p999", |report| report.ratio_p999, |_| 1.15),
    median("slow-10pct", "ratio_last", |report| report.ratio_last, |_| 1.25),
    median("far-scheduler", "ratio_last", |report| report.ratio_last, |_| 1.20),
    median("many-layers", "ratio_last", |report| report.ratio_last, |_| 1.25),
    median("many-layers-at-once", "ratio_last", |report| report.ratio_last, |_| 1.25),
    median("flash-10k", "ratio_last", |report| report.ratio_last, |_| 1.15),
    median("overload-500", "ratio_last", |report| report.ratio_last, |_| 1.25),
];

const COMMON: &[Gate] = &[
    Gate { over: Over::Worst, ..median("", SOURCE_RATIO, |report| report.source_ratio, |_| 1.01) },
    median("", "wasted_ratio", |report| report.wasted_ratio, |_| 0.03),
    median("", "connections_per_peer", connections, |_| 48.0),
];

const fn median(
    scenario: &'static str,
    figure: &'static str,
    value: fn(&Report) -> f64,
    most: fn(&Report) -> f64,
) -> Gate {
    Gate { scenario, figure, value, most, over: Over::Median }
}

fn connections(report: &Report) -> f64 {
    f64::from(u32::try_from(report.connections_per_peer).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gate_is_of_a_scenario_that_exists_and_runs() {
        for name in GATED.iter().chain(QUICK) {
            assert!(crate::catalogue::find(name).is_ok(), "{name}");
            assert!(GATED.contains(name) && !of(name).is_empty());
        }
        assert!(OWN.iter().all(|gate| GATED.contains(&gate.scenario)));
    }

    #[test]
    fn a_seed_that_dies_has_a_gate_of_its_own_for_what_is_read_again() {
        let source = |name: &str| of(name).into_iter().filter(|gate| gate.figure == SOURCE_RATIO).count();
        assert_eq!((source("seed-dies"), source("even-200")), (1, 1));
    }
}
