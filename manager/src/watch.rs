//! Telling daemons what changed, and knowing which of them listen.

use std::collections::HashMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_proto::PeerId;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

/// Where changes are announced and listeners are counted; a clone is the same place.
#[derive(Debug, Clone)]
pub(crate) struct Watchers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Counts changes; the store says what they are.
    changes: watch::Sender<u64>,
    /// Guards the counts alone and is held for one map operation. A daemon that
    /// reconnects may for a moment watch twice.
    streams_by_daemon: Mutex<HashMap<PeerId, usize>>,
    connected: Gauge<i64, AtomicI64>,
}

impl Watchers {
    pub(crate) fn new(metrics: &mut Registry) -> Self {
        let connected = Gauge::default();
        metrics.register(
            "flotilla_manager_daemons_connected",
            "Daemons that watch their settings at this moment",
            connected.clone(),
        );
        Self(Arc::new(Inner {
            changes: watch::Sender::new(0),
            streams_by_daemon: Mutex::default(),
            connected,
        }))
    }

    /// Something that daemons are told has changed.
    pub(crate) fn announce(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// Counts `id` as connected until the watcher is dropped.
    pub(crate) fn join(&self, id: &PeerId) -> Watcher {
        let mut streams = self.0.streams_by_daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let count = streams.entry(id.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.0.connected.inc();
        }
        Watcher { watchers: self.clone(), id: id.clone(), changes: self.0.changes.subscribe() }
    }

    pub(crate) fn is_connected(&self, id: &str) -> bool {
        let streams = self.0.streams_by_daemon.lock().unwrap_or_else(PoisonError::into_inner);
        id.parse::<PeerId>().is_ok_and(|id| streams.contains_key(&id))
    }

    fn leave(&self, id: &PeerId) {
        let mut streams = self.0.streams_by_daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = streams.get_mut(id) else { return };
        *count -= 1;
        if *count == 0 {
            streams.remove(id);
            self.0.connected.dec();
        }
    }
}

/// One stream of settings.
#[derive(Debug)]
pub(crate) struct Watcher {
    watchers: Watchers,
    id: PeerId,
    changes: watch::Receiver<u64>,
}

impl Watcher {
    pub(crate) fn id(&self) -> &PeerId {
        &self.id
    }

    /// Waits for a change since the last call; what changed before [`Watchers::join`] is
    /// the caller's to read first.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as `self.watchers`.
        let _never_closed = self.changes.changed().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.leave(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_reconnects_stays_connected_until_its_last_stream_ends() {
        let watchers = Watchers::new(&mut Registry::default());
        let id: PeerId = "peer-0".parse().unwrap();
        let old = watchers.join(&id);
        let new = watchers.join(&id);
        drop(old);
        assert!(watchers.is_connected("peer-0"));
        assert_eq!(watchers.0.connected.get(), 1);
        drop(new);
        assert!(!watchers.is_connected("peer-0"));
        assert_eq!(watchers.0.connected.get(), 0);
    }
}
