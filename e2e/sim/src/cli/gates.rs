//! `gates`: the table of what was asked for, and what is.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use flotilla_e2e_sim::catalogue;
use flotilla_e2e_sim::gates::{self, GATED, Outcome, QUICK};

use super::{Failure, Report, Seeds};

/// Runs the scenarios that have gates, several at a time, and prints each figure beside its gate.
pub(crate) fn gates(quick: bool, only: Option<&str>, seeds: Seeds) -> Result<(), Failure> {
    let names = if quick { QUICK } else { GATED };
    let names: Vec<&str> =
        names.iter().copied().filter(|name| only.is_none_or(|only| only == *name)).collect();
    let mut missed = 0;
    println!("{:22} {:22} {:>9} {:>9}", "scenario", "figure", "gate", "is");
    in_order(
        &names,
        |name| reports(name, seeds),
        |name, reports| {
            missed += missed_by(name, reports)?;
            Ok(())
        },
    )?;
    if missed == 0 { Ok(()) } else { Err(Failure::GatesMissed { missed }) }
}

/// Prints one scenario's figures. How many gates it missed.
fn missed_by(name: &str, reports: Result<Vec<Report>, Failure>) -> Result<usize, Failure> {
    let reports = match reports {
        Ok(reports) => reports,
        Err(broken @ Failure::Broken { .. }) => {
            println!("{name:22} {broken}");
            return Ok(1);
        }
        Err(failure) => return Err(failure),
    };
    let mut missed = 0;
    for gate in gates::of(name) {
        let outcome = gate.outcome(&reports);
        let Outcome { value, most } = outcome;
        let mark = if outcome.passes() { "" } else { "  MISSED" };
        println!("{name:22} {:22} {most:9.3} {value:9.4}{mark}", gate.figure);
        missed += usize::from(!outcome.passes());
    }
    Ok(missed)
}

fn reports(name: &str, seeds: Seeds) -> Result<Vec<Report>, Failure> {
    let scenario = catalogue::find(name)?;
    let all = seeds.first..seeds.first + seeds.count;
    let report = |seed| {
        let history = flotilla_e2e_sim::run(&scenario, seed);
        let broken = |violation| Failure::Broken { name: scenario.name, seed, violation };
        history.map(|history| history.report).map_err(broken)
    };
    all.map(report).collect()
}

/// Works on the names on all cores, and hands on what came of each in their order, as soon as it may.
fn in_order<T: Send>(
    names: &[&str],
    work: impl Fn(&str) -> T + Sync,
    mut take: impl FnMut(&str, T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (next, cores) = (AtomicUsize::new(0), thread::available_parallelism().map_or(1, NonZero::get));
    let (sender, done) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..cores.min(names.len()) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Where nobody listens, nothing more is asked for.
                    if sender.send((*name, work(name))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // An early end ends the others, too.
        let done = done;
        let mut early = Vec::new();
        for name in names {
            let result = loop {
                match early.iter().position(|(of, _)| of == name) {
                    Some(place) => break early.swap_remove(place).1,
                    None => early.push(done.recv().expect("each name is worked on")),
                }
            };
            take(name, result)?;
        }
        Ok(())
    })
}
