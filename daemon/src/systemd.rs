//! What systemd is told of a daemon: that it is ready, what it waits for, that it lives.
//!
//! The protocol is sd_notify(3): datagrams of `KEY=VALUE` lines to the socket that
//! `NOTIFY_SOCKET` names. Where nobody listens, nothing is said.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::LazyLock;
use std::time::Duration;

/// The daemon does its work, or waits for something outside itself as its status says.
pub fn ready(status: &str) {
    say(&format!("READY=1\nSTATUS={}", one_line(status)));
}

/// What `systemctl status` shows beside the state.
pub fn status(status: &str) {
    say(&format!("STATUS={}", one_line(status)));
}

/// The daemon was told to stop and is about to.
pub fn stopping() {
    say("STOPPING=1\nSTATUS=stopping");
}

/// Says that the daemon lives, as often as its unit's `WatchdogSec` asks for; returns at
/// once where it asks for nothing. Run on the daemon's own runtime, so that one that hangs
/// is started again.
pub async fn watchdog() {
    let variable = |name| std::env::var(name).ok();
    let asked = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    let Some(interval) = watchdog_interval(asked.0.as_deref(), asked.1.as_deref(), std::process::id()) else {
        return;
    };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        say("WATCHDOG=1");
    }
}

/// Half of what is allowed, as sd_watchdog_enabled(3) advises.
fn watchdog_interval(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec.div_ceil(2)))
}

fn say(state: &str) {
    let Some(socket) = &*SOCKET else { return };
    if let Err(error) = socket.send(state) {
        tracing::debug!(%error, "systemd is not told");
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Where systemd listens.
struct NotifySocket {
    from: UnixDatagram,
    to: SocketAddr,
}

impl NotifySocket {
    /// `@name` is a name of the abstract namespace.
    fn open(name: &str) -> io::Result<Self> {
        let to = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let from = UnixDatagram::unbound()?;
        from.set_nonblocking(true)?;
        Ok(Self { from, to })
    }

    fn send(&self, state: &str) -> io::Result<()> {
        self.from.send_to_addr(state.as_bytes(), &self.to).map(drop)
    }
}

static SOCKET: LazyLock<Option<NotifySocket>> = LazyLock::new(|| {
    let name = std::env::var("NOTIFY_SOCKET").ok()?;
    NotifySocket::open(&name)
        .inspect_err(|error| tracing::warn!(socket = name, %error, "open systemd's socket"))
        .ok()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        NotifySocket::open(path.to_str().unwrap()).unwrap().send("READY=1").unwrap();
        assert_eq!(heard(&listener), "READY=1");

        let name = format!("flotilla-test-{}-{}", std::process::id(), fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        NotifySocket::open(&format!("@{name}")).unwrap().send("WATCHDOG=1").unwrap();
        assert_eq!(heard(&listener), "WATCHDOG=1");
    }

    #[test]
    fn a_watchdog_is_fed_twice_as_often_as_its_unit_asks() {
        let interval = |usec, pid| watchdog_interval(usec, pid, 7);
        assert_eq!(interval(Some("30000000"), None), Some(Duration::from_secs(15)));
        assert_eq!(interval(Some("30000000"), Some("7")), Some(Duration::from_secs(15)));
        for (usec, pid) in [(None, None), (Some("0"), None), (Some("x"), None), (Some("30000000"), Some("8"))]
        {
            assert_eq!(interval(usec, pid), None, "{usec:?} {pid:?}");
        }
    }

    fn heard(listener: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let len = listener.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }
}
