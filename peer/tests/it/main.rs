//! A region in one process: a real manager, a scheduler, a seed and two peers, in front of a
//! registry that the tests script.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod authorisation;
mod bounds;
mod client;
#[path = "../../../scheduler/tests/it/cluster.rs"]
mod cluster;
mod doors;
mod endpoints;
mod faults;
mod foreign;
mod fuzz;
mod hostile;
mod hostility;
mod leading;
mod manifests;
mod names;
mod offline;
mod picking;
mod pieces;
mod places;
mod proxy;
mod pull;
mod ranges;
mod refusals;
mod region;
mod registry;
mod revocation;
mod script;
mod secrets;
mod sni;
mod starting;
mod tokens;
mod variants;
