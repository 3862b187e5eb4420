//! Keys and clients' credentials lie in a daemon's memory: it is nobody else's to read.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps this process's memory out of core files, and from other processes of its own user (`prctl(2)`,
/// `PR_SET_DUMPABLE`): neither a debugger nor `/proc/PID/mem` opens for them.
///
/// # Errors
///
/// Whatever the kernel says.
pub fn keep_private() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
