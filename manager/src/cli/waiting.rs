//! Waiting for a manager of this machine that is only starting: `systemctl enable --now`
//! and the command behind it are typed as one line.

use std::io;
use std::path::Path;
use std::time::Duration;

use flotilla_daemon::identity::ManagerUrl;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Returns when the manager listens and the identity is there, or when it makes no sense to
/// wait: the call that follows says what is wrong.
pub(super) async fn until_started(managers: &[ManagerUrl], identity: &Path, wait_s: u64) {
    let [manager] = managers else { return };
    if !manager.is_loopback() {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(wait_s);
    let mut is_said = false;
    while let Some(missing) = missing(manager, identity).await {
        if Instant::now() >= deadline {
            return;
        }
        if !is_said {
            eprintln!("waiting for the manager at {manager} ({missing}; at most {wait_s} s)");
            is_said = true;
        }
        tokio::time::sleep(BETWEEN_LOOKS.min(deadline - Instant::now())).await;
    }
}

/// What a starting manager does not have yet.
async fn missing(manager: &ManagerUrl, identity: &Path) -> Option<&'static str> {
    if !may_be_there(identity) {
        return Some("it has made no identity yet");
    }
    let connected = tokio::time::timeout(BETWEEN_LOOKS, TcpStream::connect(manager.address())).await;
    match connected {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Some("it does not listen yet"),
        Ok(_) | Err(_) => None,
    }
}

/// A directory that may not be looked into is another trouble.
fn may_be_there(identity: &Path) -> bool {
    identity.join("cert.pem").try_exists().unwrap_or(true)
}

const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
