//! The peer daemon.

pub mod source;
