//! Whether a seed of the region answers: found out without a client, so that `/readyz` and the log say it, and no
//! client waits long for what is known.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flotilla_daemon::settings::Receiver;
use flotilla_daemon::telemetry::Readiness;
use flotilla_proto::{PeerId, rendezvous_order};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::transport::{DialError, Transport};

/// Connects to the region's seeds and keeps saying whether one of them answers.
pub(crate) struct SeedWatch {
    me: PeerId,
    transport: Transport,
    settings: Receiver,
    readiness: Readiness,
    silence: watch::Sender<Silence>,
}

/// Why no seed answers; `None` while one does, or nothing is known yet.
pub(crate) type Silence = Option<String>;

impl SeedWatch {
    /// With what it finds out; nothing yet.
    pub(crate) fn new(
        me: PeerId,
        transport: Transport,
        settings: Receiver,
        readiness: Readiness,
    ) -> (Self, watch::Receiver<Silence>) {
        let (silence, silent) = watch::channel(None);
        (Self { me, transport, settings, readiness, silence }, silent)
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        self.readiness.missing(CONDITION, "no seed of this region is known yet");
        let mut warned_at = None::<Instant>;
        loop {
            let pause = match self.ask().await {
                Some(Ok(())) => {
                    if self.silence.send_replace(None).is_some() {
                        tracing::info!("a seed answers again");
                    }
                    warned_at = None;
                    self.readiness.met(CONDITION);
                    WHILE_ANSWERED
                }
                Some(Err(reason)) => {
                    if warned_at.is_none_or(|at| at.elapsed() >= REPEAT) {
                        tracing::warn!("{reason}");
                        warned_at = Some(Instant::now());
                    }
                    self.readiness.missing(CONDITION, reason.clone());
                    self.silence.send_replace(Some(reason));
                    WHILE_SILENT
                }
                None => WHILE_SILENT,
            };
            let jittered = pause.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = sleep(jittered) => {}
                changed = self.settings.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether a seed answers, if there are any. A connection that stands is an answer: it ends soon after
    /// its other end does.
    async fn ask(&mut self) -> Option<Result<(), String>> {
        let seeds = self.settings.borrow_and_update().seeds.clone();
        if seeds.is_empty() {
            return None;
        }
        if seeds.iter().any(|seed| seed.id == self.me) {
            return Some(Ok(()));
        }
        // Each node begins with another one.
        let order = rendezvous_order(self.me.as_str().as_bytes(), seeds.iter().map(|seed| seed.id.as_str()));
        let mut reasons = Vec::new();
        for name in order {
            let seed = seeds.iter().find(|seed| seed.id.as_str() == name).expect("one of them");
            self.transport.learn(seed.id.clone(), seed.address, true);
            match self.transport.reach(&seed.id).await {
                Ok(()) => return Some(Ok(())),
                Err(error) => reasons.push((seed.address, error)),
            }
        }
        Some(Err(explain(&reasons)))
    }
}

fn explain(reasons: &[(SocketAddr, DialError)]) -> String {
    let mut ports: Vec<u16> = reasons.iter().map(|(address, _)| address.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<String> = ports.iter().map(|port| format!("udp/{port}")).collect();
    let reasons: Vec<String> = reasons.iter().map(|(_, error)| error.to_string()).collect();
    format!("no seed answers on {} (firewall?): {}", ports.join(", "), reasons.join("; "))
}

/// The condition in `/readyz`.
const CONDITION: &str = "seeds";

const WHILE_ANSWERED: Duration = Duration::from_secs(3);
const WHILE_SILENT: Duration = Duration::from_secs(1);

/// What still holds is said again.
const REPEAT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_seeds_is_told_which_port_to_look_at() {
        let failed = |peer: &str, address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            let reason = "no answer".to_owned();
            (address, DialError::Failed { peer: peer.parse().unwrap(), address, reason })
        };
        assert_eq!(
            explain(&[failed("seed-0", "10.0.0.3:4006"), failed("seed-1", "[fd00::1]:4006")]),
            "no seed answers on udp/4006 (firewall?): connect to seed-0 at 10.0.0.3:4006: no answer; connect to \
             seed-1 at [fd00::1]:4006: no answer"
        );
    }
}
