//! The contact point with the daemons' crates.

use crate::cli::DaemonArgs;

/// Runs the manager until it is told to stop.
pub(crate) async fn manager(args: DaemonArgs) -> anyhow::Result<()> {
    absent("manager", &args)
}

/// Runs a scheduler until it is told to stop.
pub(crate) async fn scheduler(args: DaemonArgs) -> anyhow::Result<()> {
    absent("scheduler", &args)
}

/// Runs a peer until it is told to stop.
pub(crate) async fn peer(args: DaemonArgs) -> anyhow::Result<()> {
    absent("peer", &args)
}

fn absent(daemon: &str, args: &DaemonArgs) -> anyhow::Result<()> {
    anyhow::bail!("the {daemon} is not part of this build ({args:?})")
}
