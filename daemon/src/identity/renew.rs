//! Renewing the certificate in time, for as long as the daemon lives.

use std::time::{Duration, SystemTime};

use flotilla_proto::wire::manager::RenewRequest;

use super::NodeIdentity;
use super::bundle::BundleError;
use super::enrol::{chain_of, signing_request};
use crate::rpc::{self, CALL_TIMEOUT};

/// Renews the certificate whenever two thirds of its life have passed; never returns.
/// While the manager cannot be reached it tries again, ever more rarely, up to every
/// five minutes, and warns each time; the certificate in use stays.
pub async fn renew_loop(identity: NodeIdentity) {
    let mut failures = 0;
    loop {
        wait_until(identity.validity().renew_at()).await;
        match renew(&identity).await {
            Ok(()) => {
                failures = 0;
                let until = humantime::format_rfc3339_seconds(identity.validity().not_after);
                tracing::info!(%until, "certificate renewed");
                if identity.validity().renew_at() <= SystemTime::now() {
                    tracing::warn!("the certificate is due again at once; do the clocks agree?");
                    tokio::time::sleep(MAX_PAUSE).await;
                }
            }
            Err(error) => {
                let left = identity.validity().not_after.duration_since(SystemTime::now());
                match left {
                    Ok(left) => tracing::warn!(left_s = left.as_secs(), %error, "certificate not renewed"),
                    Err(_) => {
                        tracing::error!(%error, "certificate expired; enrol again with a new join token");
                    }
                }
                tokio::time::sleep(pause_after(failures)).await;
                failures += 1;
            }
        }
    }
}

/// One attempt, with the key kept: see `bundle` for why.
async fn renew(identity: &NodeIdentity) -> Result<(), RenewError> {
    let csr_der = signing_request(identity.key())?.into();
    let mut request = tonic::Request::new(RenewRequest { csr_der });
    request.set_timeout(CALL_TIMEOUT);
    let mut manager = rpc::EnrolmentClient::new(rpc::manager_channel(identity));
    let reply = manager.renew(request).await;
    let reply = reply.map_err(|status| RenewError::Manager { reason: rpc::reason(&status) })?;
    identity.replace_certificate(&chain_of(reply.get_ref()))
}

/// In steps, because a timer does not see the clock being set or the machine sleeping.
async fn wait_until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now()) {
        if left.is_zero() {
            break;
        }
        tokio::time::sleep(left.min(MAX_STEP)).await;
    }
}

fn pause_after(failures: u32) -> Duration {
    let pause = MIN_PAUSE.saturating_mul(1 << failures.min(16)).min(MAX_PAUSE);
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

const MAX_STEP: Duration = Duration::from_secs(60 * 60);
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No signing request could be made.
    #[error("make a signing request: {0}")]
    Request(#[from] rcgen::Error),
    /// The manager cannot be reached, or refuses.
    #[error("ask the manager: {reason}")]
    Manager {
        /// What it said, or what went wrong on the way.
        reason: String,
    },
    /// The manager's answer is not a certificate for this daemon.
    #[error("the certificate cannot be used: {reason}")]
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be kept.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_between_attempts_grows_to_a_bound() {
        assert!(pause_after(0) <= MIN_PAUSE);
        for failures in 10..100 {
            let pause = pause_after(failures);
            assert!(pause >= MAX_PAUSE / 2 && pause <= MAX_PAUSE, "{pause:?}");
        }
    }
}
