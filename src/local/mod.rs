//! A whole region on this machine: `up` runs it, `demo` also pulls an image through it.

mod child;
pub(crate) mod demo;
mod free_port;
mod interrupt;
mod registry;
pub(crate) mod up;
