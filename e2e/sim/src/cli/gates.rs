//! `gates`: the table of what was asked for, and what is.

use flotilla_e2e_sim::catalogue;
use flotilla_e2e_sim::gates::{self, GATED, Outcome, QUICK};

use super::{Failure, Report, Seeds, history};

/// Runs the scenarios that have gates and prints each figure beside its gate.
pub(crate) fn gates(quick: bool, only: Option<&str>, seeds: Seeds) -> Result<(), Failure> {
    let names = if quick { QUICK } else { GATED };
    let mut missed = 0;
    println!("{:22} {:22} {:>9} {:>9}", "scenario", "figure", "gate", "is");
    for name in names.iter().filter(|name| only.is_none_or(|only| only == **name)) {
        let reports = match reports(name, seeds) {
            Ok(reports) => reports,
            Err(broken @ Failure::Broken { .. }) => {
                println!("{name:22} {broken}");
                missed += 1;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        for gate in gates::of(name) {
            let outcome = gate.outcome(&reports);
            let Outcome { value, most } = outcome;
            let mark = if outcome.passes() { "" } else { "  MISSED" };
            println!("{name:22} {:22} {most:9.3} {value:9.4}{mark}", gate.figure);
            missed += usize::from(!outcome.passes());
        }
    }
    if missed == 0 { Ok(()) } else { Err(Failure::GatesMissed { missed }) }
}

fn reports(name: &str, seeds: Seeds) -> Result<Vec<Report>, Failure> {
    let scenario = catalogue::find(name)?;
    let all = seeds.first..seeds.first + seeds.count;
    all.map(|seed| Ok(history(&scenario, seed)?.report)).collect()
}
