//! The scheduler daemon against a real manager, with peers that the tests speak for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod admission;
mod cluster;
mod harness;
mod planning;
