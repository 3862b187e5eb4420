//! What the demo found: one JSON object for programs, a table for people.

use bytesize::ByteSize;
use serde::Serialize;

use super::origin::Origin;
use super::pull::Pulled;
use crate::bytes_by_source::BytesBySource;
use crate::output::table;

/// The outcome of a demo.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The image's name.
    pub(crate) image: String,
    /// Its unique blobs, config included.
    pub(crate) blobs: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Peers beside the seed.
    pub(crate) peers: usize,
    /// Clients of each peer.
    pub(crate) clients_per_peer: u16,
    /// Blob bytes that the registry sent, counted in front of it.
    pub(crate) source_bytes: u64,
    /// Requests that it answered with them.
    pub(crate) source_requests: u64,
    /// `source_bytes` ÷ `bytes`: 1 if each byte was read once.
    pub(crate) source_ratio: f64,
    /// From the common start until the last client was done.
    pub(crate) seconds: f64,
    /// The peers.
    pub(crate) nodes: Vec<NodeReport>,
    /// Every client got every blob with the right SHA-256.
    pub(crate) verified: bool,
    /// A line for each thing that went wrong.
    #[serde(skip)]
    pub(crate) failures: Vec<String>,
}

/// What a report is made from.
pub(crate) struct Measured<'a> {
    /// The image and the count in front of its registry.
    pub(crate) origin: &'a Origin,
    /// What the clients got.
    pub(crate) pulled: Pulled,
    /// In the order of the pull's nodes.
    pub(crate) bytes_by_node: Vec<BytesBySource>,
    /// Clients of each peer.
    pub(crate) clients_per_peer: u16,
}

/// One peer's part.
#[derive(Debug, Serialize)]
pub(crate) struct NodeReport {
    /// The peer.
    pub(crate) name: String,
    /// Until its last client was done.
    pub(crate) seconds: f64,
    /// Where its pieces came from, by its own counters.
    pub(crate) bytes: BytesBySource,
}

impl Report {
    /// Puts it together. The image is verified if no client failed and all got what was
    /// pushed, where the demo pushed it.
    pub(crate) fn new(measured: Measured<'_>) -> Self {
        let Measured { origin, pulled, bytes_by_node, clients_per_peer } = measured;
        let Pulled { image, seconds_by_node, seconds, mut failures } = pulled;
        if let (Some(image), Some(expected)) = (&image, &origin.expected)
            && image != expected
        {
            failures
                .push(format!("the clients got the manifest {}, not {}", image.manifest, expected.manifest));
        }
        let blobs = image.or_else(|| origin.expected.clone()).map(|image| image.blobs).unwrap_or_default();
        let bytes = blobs.values().sum();
        let (source_bytes, source_requests) = (origin.hop.count().bytes(), origin.hop.count().requests());
        let node = |((name, seconds), bytes)| NodeReport { name, seconds: round(seconds, 3), bytes };
        Self {
            image: origin.image.to_string(),
            blobs: blobs.len(),
            bytes,
            peers: seconds_by_node.len(),
            clients_per_peer,
            source_bytes,
            source_requests,
            source_ratio: Self::ratio(source_bytes, bytes),
            seconds: round(seconds, 3),
            nodes: seconds_by_node.into_iter().zip(bytes_by_node).map(node).collect(),
            verified: failures.is_empty(),
            failures,
        }
    }

    /// `source_bytes` ÷ `bytes`, to four digits; 0 where nothing is known of the image.
    fn ratio(source_bytes: u64, bytes: u64) -> f64 {
        if bytes == 0 { 0.0 } else { round(source_bytes as f64 / bytes as f64, 4) }
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and finite numbers make JSON")
    }

    /// A table of the peers and a line that sums up.
    pub(crate) fn for_people(&self) -> String {
        let mut rows = table(["NODE", "SECONDS", "STORE", "PEER", "SEED", "REGISTRY"]);
        for NodeReport { name, seconds, bytes } in &self.nodes {
            let BytesBySource { store, peer, seed, registry } = *bytes;
            let bytes = [store, peer, seed, registry].map(|bytes| ByteSize(bytes).to_string());
            rows.add_row([name.clone(), format!("{seconds:.2}")].into_iter().chain(bytes));
        }
        let clients = self.peers * usize::from(self.clients_per_peer);
        let each =
            if self.verified { "every blob verified by every client" } else { "NOT every client got it" };
        format!(
            "{}\n\n{} ({}, {} blobs): {clients} clients in {:.2} s, {each}\n\
             the registry sent {} in {} requests: source ratio {}",
            rows.trim_fmt(),
            self.image,
            ByteSize(self.bytes),
            self.blobs,
            self.seconds,
            ByteSize(self.source_bytes),
            self.source_requests,
            self.source_ratio,
        )
    }
}

/// `value` to this many digits behind the point.
fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_get_the_fields_they_were_promised() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        let expected = json!({
            "image": "demo.test/app:v1", "blobs": 5, "bytes": 1000, "peers": 2, "clients_per_peer": 3,
            "source_bytes": 1005, "source_requests": 5, "source_ratio": 1.005, "seconds": 1.5,
            "nodes": [{
                "name": "peer-0", "seconds": 1.25,
                "bytes": { "store": 0, "peer": 600, "seed": 400, "registry": 0 },
            }],
            "verified": true,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn people_see_each_peer_and_the_ratio() {
        let text = report().for_people();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(
            words.contains(&vec!["peer-0", "1.25", "0", "B", "600", "B", "400", "B", "0", "B"]),
            "{text}"
        );
        assert!(text.ends_with("the registry sent 1005 B in 5 requests: source ratio 1.005"), "{text}");
    }

    #[test]
    fn the_ratio_of_nothing_is_no_number_that_json_lacks() {
        assert_eq!(Report::ratio(0, 0), 0.0);
        assert_eq!(Report::ratio(100_004, 100_000), 1.0);
        assert_eq!(Report::ratio(101, 100), 1.01);
    }

    fn report() -> Report {
        let bytes = BytesBySource { peer: 600, seed: 400, ..Default::default() };
        Report {
            image: "demo.test/app:v1".into(),
            blobs: 5,
            bytes: 1000,
            peers: 2,
            clients_per_peer: 3,
            source_bytes: 1005,
            source_requests: 5,
            source_ratio: Report::ratio(1005, 1000),
            seconds: 1.5,
            nodes: vec![NodeReport { name: "peer-0".into(), seconds: 1.25, bytes }],
            verified: true,
            failures: Vec::new(),
        }
    }
}
