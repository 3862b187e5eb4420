//! Plain HTTP as the command line and the local region need it: a client with deadlines, a
//! small loopback server, bodies that stream.
//!
//! The daemons have their own; nothing here is on a node's data path.

mod body;
mod client;
mod server;

pub(crate) use body::{Body, empty, file, full, text};
pub(crate) use client::{HttpClient, RequestError};
pub(crate) use server::{Server, oci_error};
