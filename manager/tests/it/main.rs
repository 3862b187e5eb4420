//! A real manager on ephemeral ports, and real daemons' identities that talk to it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod command_line;
mod enrolment;
mod harness;
mod keys;
mod renewal;
mod revocation;
mod settings;
mod start;
mod tls;
