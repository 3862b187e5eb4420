//! The simulator's word is worth something: real daemons do what it says.

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;
use flotilla_e2e_hostile::Manner;

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

/// One node is an attacker's: its enrolled peer says to hold the layer, with false hashes and another size, gives nothing
/// in any of the manners there are, slanders everybody and asks for 10 000 blobs a second. All others get the layer,
/// and the registry gives it once.
pub(super) fn a_peer_that_lies_keeps_nobody_from_the_layer(stage: &Stage) -> Result<()> {
    let mut plan = LabPlan::plain(12, "50mbit".parse()?, ByteSize::mib(32));
    plan.liar = Some(Manner::Any);
    let played = play(stage, &plan)?;
    let report = played.report();
    ensure!(report.source_ratio <= 1.05, "{} of the layer came from the registry", report.source_ratio);
    let to_predicted = played.last_to_predicted().context("nobody was killed")?;
    println!("last {:.3} of the bound, {to_predicted:.3} of the prediction", report.ratio_last);
    Ok(())
}

/// What pieces may take of the uplinks is 4 MB a second by the nodes' own word: as if these had
/// no more.
pub(super) fn keeps_to_a_send_bandwidth(stage: &Stage) -> Result<()> {
    let mut plan = fast()?;
    plan.send_bandwidth = Some(ByteSize::mb(4));
    keeps_to_bandwidths(stage, &plan)
}

/// The same of the downlinks.
pub(super) fn keeps_to_a_receive_bandwidth(stage: &Stage) -> Result<()> {
    let mut plan = fast()?;
    plan.receive_bandwidth = Some(ByteSize::mb(4));
    keeps_to_bandwidths(stage, &plan)
}

fn fast() -> Result<LabPlan> {
    Ok(LabPlan::plain(3, "1gbit".parse()?, ByteSize::mib(16)))
}

fn keeps_to_bandwidths(stage: &Stage, plan: &LabPlan) -> Result<()> {
    let played = play(stage, plan)?;
    let report = played.report();
    ensure!(report.source_ratio <= 1.01, "{} of the layer came from the registry", report.source_ratio);
    ensure!(report.wasted_ratio <= 0.03, "{} of the pieces were for nothing", report.wasted_ratio);
    // They may be ahead by 100 ms, and the last piece need only begin in time.
    let last = report.ratio_last;
    ensure!((0.9..=1.3).contains(&last), "the last node took {last} of the bound");
    println!("last {last:.3} of the bound");
    Ok(())
}
