//! What was pulled, where it came from, and what that proves.

use bytesize::ByteSize;
use serde::Serialize;

use super::VerifyArgs;
use crate::bytes_by_source::BytesBySource;
use crate::client::PeerUrl;
use crate::local_peer::{LocalPeer, Status};
use crate::oci_client::PulledImage;
use crate::output::table;

/// The outcome.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    image: String,
    /// The peer.
    node: String,
    region: String,
    /// Behind the tag.
    manifest: Option<String>,
    /// Config and layers.
    blobs: usize,
    /// Their bytes, all of which were received and hashed.
    bytes: u64,
    seconds: f64,
    /// What the peer counted meanwhile, for all its clients.
    counted: BytesBySource,
    /// The other bytes: counted before, where the verdict is good.
    uncounted: u64,
    /// Every byte came from the region.
    pub(super) from_region: bool,
    /// The same in words, or why not.
    pub(super) verdict: String,
    notes: Vec<String>,
}

/// What a report is made from.
pub(super) struct Measured<'a> {
    pub(super) args: &'a VerifyArgs,
    /// Where the pull went.
    pub(super) door: &'a PeerUrl,
    pub(super) peer: &'a LocalPeer,
    /// What was got, or why it was not.
    pub(super) pulled: Result<PulledImage, String>,
    pub(super) seconds: f64,
    /// The peer's counters.
    pub(super) before: BytesBySource,
    pub(super) after: BytesBySource,
}

impl Report {
    pub(super) fn new(measured: Measured<'_>) -> Self {
        let Measured { args, door, peer, pulled, seconds, before, after } = measured;
        let Status { name, role, region, door: own, .. } = &peer.status;
        let counted = after.since(before);
        let image = pulled.as_ref().ok();
        let bytes = image.map_or(0, |image| image.blobs.values().sum());
        let same_peer = peer.is_at(door);
        let verdict = match &pulled {
            Err(reason) => Err(format!("the pull failed: {reason}")),
            Ok(_) => Evidence { expected: bytes, counted, ever: after, role, same_peer }.judge(),
        };
        let mut notes = Vec::new();
        if !same_peer {
            notes.push(format!("{name} says that its doors are at {own}: is {door} another peer's?"));
        }
        if counted.total() > bytes {
            notes.push(
                "Other clients of this node pulled meanwhile: the counters are of all of them.".to_owned(),
            );
        }
        Self {
            image: args.image.to_string(),
            node: name.clone(),
            region: region.clone(),
            manifest: image.map(|image| image.manifest.to_string()),
            blobs: image.map_or(0, |image| image.blobs.len()),
            bytes,
            seconds: (seconds * 1000.0).round() / 1000.0,
            counted,
            uncounted: bytes.saturating_sub(counted.total()),
            from_region: verdict.is_ok(),
            verdict: verdict.unwrap_or_else(|reason| reason),
            notes,
        }
    }

    /// A table of the sources, and the verdict. A refusal is told as the command's error.
    pub(super) fn for_people(&self) -> String {
        let Self { image, node, .. } = self;
        let mut parts = match self.manifest {
            None => vec![format!("{image} through {node}: not pulled")],
            Some(_) => vec![self.pulled(), self.sources()],
        };
        parts.extend(self.notes.iter().map(|note| format!("note: {note}")));
        parts.extend(self.from_region.then(|| self.verdict.clone()));
        parts.join("\n\n")
    }

    fn pulled(&self) -> String {
        let Self { image, node, blobs, seconds, .. } = self;
        let bytes = ByteSize(self.bytes);
        format!("{image} through {node}: {bytes} in {blobs} blobs, {seconds:.2} s, every byte hashed")
    }

    fn sources(&self) -> String {
        let BytesBySource { store, peer, seed, registry } = self.counted;
        let mut rows = table(["FROM", "BYTES"]);
        for (source, bytes) in [
            ("store", store),
            ("peers", peer),
            ("seeds", seed),
            ("registry", registry),
            ("not counted now", self.uncounted),
        ] {
            rows.add_row([source.to_owned(), ByteSize(bytes).to_string()]);
        }
        rows.trim_fmt()
    }
}

/// What a verdict is made from.
struct Evidence<'a> {
    /// Bytes of the image.
    expected: u64,
    /// What the peer counted meanwhile.
    counted: BytesBySource,
    /// What it has counted since it started.
    ever: BytesBySource,
    role: &'a str,
    /// The door and the counters are one peer's.
    same_peer: bool,
}

impl Evidence<'_> {
    /// A peer counts each piece once in its life: when it comes, or is first found in its
    /// store. So what it gave without a count it had counted before, and all it ever counted
    /// is at least the image. That says nothing where something else answers at the door.
    fn judge(&self) -> Result<String, String> {
        let &Self { expected, counted, ever, role, same_peer } = self;
        let held = expected.saturating_sub(counted.total());
        if counted.registry > 0 {
            return Err(read_itself(counted.registry, role));
        }
        if ever.total() < expected || held > 0 && !same_peer {
            return Err(format!(
                "the peer's counters do not cover it: they show {} of {} for this pull. Something else may have \
                 answered: do --peer and --admin name the same peer?",
                ByteSize(counted.total()),
                ByteSize(expected)
            ));
        }
        let sum = format!("at least {} were counted", ByteSize(counted.total()));
        let held = format!("{} were in the store of this node before", ByteSize(held));
        let how = match (counted.total(), counted.total() < expected) {
            (0, true) => held,
            (_, true) => format!("{sum}, and {held}"),
            (_, false) => sum,
        };
        let read = if counted.seed + counted.peer > 0 {
            "this node read none from the registry itself; what the region did not hold yet, a seed read for all"
        } else {
            "nothing was read from the registry"
        };
        Ok(format!("every byte came from the region: {how}; {read}"))
    }
}

fn read_itself(bytes: u64, role: &str) -> String {
    let (who, advice) = if role == "seed" {
        ("this node is a seed, and read", "; ask a node that is no seed")
    } else {
        ("this node read", "")
    };
    format!("not every byte came from the region: {who} {} from the registry itself{advice}", ByteSize(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_decides() {
        let fetched = BytesBySource { peer: 60, seed: 40, ..Default::default() };
        let read = BytesBySource { peer: 60, registry: 40, ..Default::default() };
        let nothing = BytesBySource::default();
        for (expected, counted, ever, same_peer, words) in [
            (
                100,
                fetched,
                fetched,
                true,
                Ok("region: at least 100 B were counted; this node read none from the registry itself"),
            ),
            (
                150,
                fetched,
                BytesBySource { registry: 50, ..fetched },
                true,
                Ok("100 B were counted, and 50 B were in the store"),
            ),
            (
                100,
                nothing,
                fetched,
                true,
                Ok("region: 100 B were in the store of this node before; nothing was read from the registry"),
            ),
            (100, nothing, fetched, false, Err("show 0 B of 100 B for this pull")),
            (100, fetched, fetched, false, Ok("at least 100 B were counted")),
            (100, read, read, true, Err("this node read 40 B from the registry itself")),
            (101, fetched, fetched, true, Err("show 100 B of 101 B for this pull")),
            (100, nothing, nothing, true, Err("do --peer and --admin name the same peer?")),
        ] {
            let verdict = Evidence { expected, counted, ever, role: "peer", same_peer }.judge();
            let text = verdict.clone().unwrap_or_else(|reason| reason);
            assert_eq!(verdict.is_ok(), words.is_ok(), "{text}");
            assert!(text.contains(words.unwrap_or_else(|words| words)), "{text}");
        }
        let seeds = read_itself(40, "seed");
        assert!(seeds.ends_with("from the registry itself; ask a node that is no seed"), "{seeds}");
    }
}
