//! How far the pull is: what the clients count, and what a person sees of it.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::oci_client::NodeProgress;

/// What is shown while the demo runs.
pub(crate) enum Display {
    /// A bar for each peer, drawn by the terminal's rules.
    Bars(MultiProgress, Vec<ProgressBar>),
    /// Plain lines.
    Lines,
    /// Nothing: a program reads the answer.
    Quiet,
}

impl Display {
    /// Quiet for JSON, bars on a terminal, lines elsewhere.
    pub(crate) fn choose(json: bool) -> Self {
        match (json, std::io::stdout().is_terminal() && std::io::stderr().is_terminal()) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Bars(MultiProgress::new(), Vec::new()),
            (false, false) => Self::Lines,
        }
    }

    /// Says what happens.
    pub(crate) fn say(&self, text: &str) {
        match self {
            // Both fail only where nobody is left to read.
            Self::Bars(bars, _) => drop(bars.println(text)),
            Self::Lines => drop(crate::output::print(text)),
            Self::Quiet => {}
        }
    }

    /// Says what the bars show where there are any.
    pub(crate) fn say_in_lines(&self, text: &str) {
        match self {
            Self::Lines => self.say(text),
            Self::Bars(..) | Self::Quiet => {}
        }
    }

    /// Says what a person must know even where a program reads the answer.
    pub(crate) fn warn(&self, text: &str) {
        match self {
            Self::Bars(bars, _) => drop(bars.println(text)),
            Self::Lines | Self::Quiet => eprintln!("{text}"),
        }
    }

    /// Begins with the peers of these names.
    pub(crate) fn begin<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let Self::Bars(all, bars) = self else { return };
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is well formed");
        bars.extend(names.map(|name| {
            let bar = ProgressBar::no_length().with_style(style.clone()).with_prefix(name.to_owned());
            all.add(bar)
        }));
    }

    /// Shows how far a client of each peer is.
    pub(crate) fn show(&self, nodes: &[Arc<NodeProgress>]) {
        let Self::Bars(_, bars) = self else { return };
        for (bar, node) in bars.iter().zip(nodes) {
            let (received, expected) = node.bytes_of_each();
            // Nothing is expected before the manifest is read: a bar of nothing would be full.
            if expected > 0 {
                bar.set_length(expected);
                bar.set_position(received);
            }
        }
    }

    /// Leaves the bars as they are.
    pub(crate) fn end(&self) {
        let Self::Bars(_, bars) = self else { return };
        bars.iter().for_each(ProgressBar::abandon);
    }
}

/// Notices that nothing comes.
#[derive(Debug)]
pub(crate) struct StallWatch {
    received: u64,
    since: Instant,
    told: u32,
}

impl StallWatch {
    /// Watches from `now` on.
    pub(crate) fn new(now: Instant) -> Self {
        Self { received: 0, since: now, told: 0 }
    }

    /// The message, once for each [`STALL_AFTER`] without a byte.
    pub(crate) fn observe(&mut self, now: Instant, received: u64) -> Option<String> {
        if received != self.received {
            *self = Self { received, ..Self::new(now) };
        }
        let still = now - self.since;
        if still < STALL_AFTER * (self.told + 1) {
            return None;
        }
        self.told += 1;
        let (seconds, bytes) = (still.as_secs(), ByteSize(received));
        Some(format!("no client received a byte for {seconds} s; all together have {bytes}"))
    }
}

/// A door answers or fails within 10 s; a registry may think longer.
const STALL_AFTER: Duration = Duration::from_secs(20);

/// Name, bar, bytes, speed.
const TEMPLATE: &str =
    "{prefix:10} {wide_bar:.cyan/dim} {bytes:>10} of {total_bytes:<10} {binary_bytes_per_sec:>12}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_once_for_each_while_and_forgotten_with_the_next_byte() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = StallWatch::new(start);
        assert_eq!(watch.observe(at(19), 0), None);
        let told = watch.observe(at(20), 0).unwrap();
        assert_eq!(told, "no client received a byte for 20 s; all together have 0 B");
        assert_eq!(watch.observe(at(39), 0), None);
        assert!(watch.observe(at(40), 0).is_some());
        assert_eq!(watch.observe(at(41), 1), None);
        assert_eq!(watch.observe(at(60), 1), None);
        assert!(watch.observe(at(61), 1).is_some());
    }
}
