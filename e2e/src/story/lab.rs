//! The simulator's word is worth something: real daemons do what it says.

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;

use crate::lab::{LabPlan, play};
use crate::stage::Stage;

/// Twelve nodes, at a rate that the processors of one small machine can follow: with 200 Mbit/s
/// each, two cores are what ends the pull, and the simulator knows of none.
pub(super) fn does_what_the_simulator_says(stage: &Stage) -> Result<()> {
    let plan = LabPlan::plain(12, "50mbit".parse()?, ByteSize::mib(32));
    let played = play(stage, &plan)?;
    let report = played.report();
    ensure!(report.source_ratio <= 1.01, "{} of the layer came from the registry", report.source_ratio);
    ensure!(report.ratio_last <= 1.3, "the last node took {} of the lower bound", report.ratio_last);
    let to_predicted = played.last_to_predicted().context("nobody was killed")?;
    ensure!((0.8..=1.2).contains(&to_predicted), "it took {to_predicted} of what the simulator says");
    println!("last {:.3} of the bound, {to_predicted:.3} of the prediction", report.ratio_last);
    Ok(())
}
