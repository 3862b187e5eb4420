//! The scheduler daemon against a real manager, with peers that the tests speak for.

mod admission;
mod cluster;
mod harness;
mod planning;
