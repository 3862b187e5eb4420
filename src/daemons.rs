//! `flotilla manager`, `scheduler` and `peer`: read the configuration, set up logs and
//! signals, run.

use std::path::Path;

use anyhow::Context as _;
use flotilla_daemon::config::{self, LogConfig};
use flotilla_daemon::{memory, shutdown, systemd, telemetry};
use flotilla_peer::PeerConfig;
use flotilla_scheduler::SchedulerConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::cli::DaemonArgs;
use crate::output;

/// Runs the manager until it is told to stop.
pub(crate) async fn manager(args: DaemonArgs) -> anyhow::Result<()> {
    let config: flotilla_manager::Config = config::load(path(&args))?;
    config.validate()?;
    daemon(args, config, |config| &config.log, flotilla_manager::run).await
}

/// Runs a scheduler until it is told to stop.
pub(crate) async fn scheduler(args: DaemonArgs) -> anyhow::Result<()> {
    let config: SchedulerConfig = config::load(path(&args))?;
    config.validate()?;
    daemon(args, config, |config| &config.log, flotilla_scheduler::run).await
}

/// Runs a peer until it is told to stop.
pub(crate) async fn peer(args: DaemonArgs) -> anyhow::Result<()> {
    let config: PeerConfig = config::load(path(&args))?;
    config.validate()?;
    daemon(args, config, |config| &config.log, flotilla_peer::run).await
}

fn path(args: &DaemonArgs) -> Option<&Path> {
    args.config.as_deref()
}

async fn daemon<C, F>(
    args: DaemonArgs,
    config: C,
    log: impl Fn(&C) -> &LogConfig,
    run: impl FnOnce(C, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    C: Serialize + DeserializeOwned,
    F: Future<Output = anyhow::Result<()>>,
{
    if args.check {
        return output::print(config::effective(&config).trim_end());
    }
    telemetry::init_logs(log(&config))?;
    memory::keep_private().context("keep keys and credentials out of core files")?;
    let shutdown = shutdown::on_signal()?;
    if args.stop_with_stdin {
        shutdown::watch_stdin(shutdown.clone())?;
    }
    let alive = tokio::spawn(systemd::watchdog());
    let stopping = tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            shutdown.cancelled().await;
            systemd::stopping();
        }
    });
    let ended = run(config, shutdown).await;
    alive.abort();
    stopping.abort();
    ended
}
