//! The wish to stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Completes at Ctrl-C or SIGTERM. Call it before anything that needs an orderly stop: from
/// then on these signals no longer end the process.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
