//! Stories a user would tell, played with the real clients and a real registry.
//!
//! The harness is verbs: [`Stage`] is the private piece of machine a story runs on,
//! [`Origin`] its registry (or [`Harbor`], a fake one that fails on demand), [`Region`] the Flotilla under test, [`client`] the container
//! clients, and [`AccessLog`] what the registry itself saw. [`story`] tells the stories with
//! them, [`runner`] starts each in namespaces of its own, [`lab`] measures a region whose nodes
//! have shaped links. A [`Machine`] is one that systemd has booted, with the package on it. Nothing
//! here looks inside the daemons: they are seen through their doors, their metrics and their messages.
//!
//! # Why a client cannot cheat
//!
//! A client that falls back to the registry silently would make most assertions pass. It is
//! kept from it by the kernel and not by a look at user agents: the clients run as root and
//! a routing rule of the namespace refuses root the registry's address, while the daemons
//! run as [`stage::REGION_UID`] and get through. [`Stage::assert_fenced`] proves the fence
//! before a story relies on it.

pub mod access_log;
pub mod base;
pub mod certificates;
pub mod client;
mod conformance;
pub mod exchange;
pub mod harbor;
pub mod http;
pub mod image;
pub mod lab;
pub mod machine;
pub mod object_store;
mod operator;
pub mod origin;
pub mod process;
pub mod region;
pub mod runner;
pub mod stage;
pub mod story;
pub mod wait;

pub use access_log::AccessLog;
pub use harbor::Harbor;
pub use machine::Machine;
pub use origin::Origin;
pub use process::Process;
pub use region::Region;
pub use stage::Stage;
