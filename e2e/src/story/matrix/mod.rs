//! The matrix: every client at every door, in front of a Harbor that lets nobody in for nothing.
//!
//! A door is a story and a client at it a cell. A story has one region for all its cells; a cell
//! has images of its own, so that nothing of it is there before.

mod cell;
mod knock;
mod raw;
mod setting;

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use self::setting::Setting;
use crate::client::{CELLS, FrontDoor, NO_CELLS};
use crate::stage::Stage;

/// Plays all cells of a door, and says how each went.
pub(super) fn door(stage: &Stage, front_door: FrontDoor) -> Result<()> {
    let setting = Setting::lay(stage, front_door)?;
    for none in NO_CELLS.iter().filter(|none| none.cell.front_door == front_door) {
        println!("{}: cannot be: {}", none.cell, none.reason);
    }
    let mut failures = String::new();
    for (number, cell) in (1..).zip(CELLS.iter().filter(|cell| cell.front_door == front_door)) {
        let start = Instant::now();
        match cell::play(&setting, cell.client, number) {
            Ok(()) => println!("{cell}: {:.1} s", start.elapsed().as_secs_f32()),
            Err(error) => failures += &format!("\n{cell}: {error:#}\n"),
        }
    }
    ensure!(failures.is_empty(), "cells failed:{failures}");
    raw::requests(&setting).context("raw requests")?;
    setting.region.assert_no_error_logged()
}
