//! Every bound of the planner, and what happens at it.

use std::time::Duration;

/// The planner's bounds. The defaults are those of `docs/design.md` §4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Peers attached at once, and above every [`PeerKey`](crate::PeerKey). A peer beyond is not known.
    pub peers_max: u32,
    /// Partners a newcomer draws for a download.
    pub partners_drawn: usize,
    /// Partners a peer may have for one download. A peer at the bound is drawn no more.
    pub partners_max: usize,
    /// The same, for a seed.
    pub seed_partners_max: usize,
    /// Below this many partners a download draws new ones.
    pub partners_min: usize,
    /// Members of a zone up to which all of them are partners.
    pub full_mesh_max: usize,
    /// Partners in other zones that a newcomer draws: through them pieces cross.
    pub partners_across: usize,
    /// Partners of late that are remembered as warm.
    pub warm_max: usize,
    /// Candidates a choice looks at; two to eight are as good as all (§2e).
    pub candidates: usize,
    /// Pieces a peer sends and receives at once where a blob has more than 512 (K, §2b).
    pub slots_many: u32,
    /// The same where it has fewer.
    pub slots_few: u32,
    /// Pieces a parent may owe, over all tasks (Q). A parent at the bound gets no more.
    pub queue_max: u32,
    /// Pieces an unproven parent may owe; doubles with each piece it delivers.
    pub queue_start: u32,
    /// Pieces a parent may owe beyond those it sends at once, at least.
    pub queue_ahead_min: u32,
    /// Bytes a parent may owe over all tasks: its send budget (docs/design.md §5).
    pub queue_bytes: u64,
    /// A parent that sent nothing for so long, though it owes, gets no more.
    pub stuck: Duration,
    /// Pieces a child may await (W). A child at the bound gets no more, save a first of each task.
    pub window_max: u32,
    /// Bytes a child may await over all tasks: its receive budget (docs/design.md §5).
    pub window_bytes: u64,
    /// A reader that got nothing for so long comes first.
    pub starving: Duration,
    /// How long a child and a parent that failed each other are kept apart.
    pub pair_rest: Duration,
    /// How long a parent that sent a corrupt piece, or failed several children, comes last; how long, at first, one that
    /// failed a child and a seed is not believed to hold anything.
    pub blame: Duration,
    /// How long a peer that failed a child is in question, unless it delivers.
    pub question: Duration,
    /// A first piece of a blob from a parent, of which few hold it, is given up after so long.
    pub unproven: Duration,
    /// How long a holder that is asked for hashes may take to tell them.
    pub hashes_wait: Duration,
    /// How long a download that was sent corrupt pieces may get nothing before it fails: every
    /// way to the bytes may be barred to it.
    pub hopeless: Duration,
    /// Children whose transfers time out before a parent is blamed; or timeouts in a row.
    pub timeouts_to_blame: usize,
    /// How far a reading seed may be ahead of what others hold, in percent of the blob, or its
    /// queue where that is more: so much is read again should it die (§2m).
    pub lead_percent: u32,
    /// How long a vanished seed may go on reading: its read lease (docs/design.md §3). The next
    /// seed is told to read only after it.
    pub read_lease: Duration,
    /// How long a wanted blob waits for a seed to appear before the download fails.
    pub seed_wait: Duration,
    /// How long a fresh planner waits for configured seeds before it orders source reads.
    pub settle: Duration,
    /// Blobs known at once. At the bound what the peer with the most of them alone has a part in makes room; where that
    /// is who asks, a want fails and an announcement is not recorded.
    pub tasks_max: usize,
    /// Pieces of all known blobs together, some 45 bytes each; a blob counts as `pieces_max / tasks_max` more. The same
    /// at the bound.
    pub pieces_max: u64,
    /// Blobs that a peer may want at once. At the bound a want fails.
    pub wants_max: usize,
    /// Blobs that may be read from the registry at once for what one peer wants; others wait.
    pub reads_max: u32,
    /// Idle holders known of one blob; more would plan no better.
    pub holders_max: usize,
    /// Pieces that the planner's thread can plan in a second, as far as nothing else was measured.
    /// A blob whose members could take three times as many is handed to them at once.
    pub planned_per_s: u32,
    /// From this load on, in percent, downloads are handed to the peers to pick by themselves.
    pub shed_at: u8,
    /// Below this load they are taken back.
    pub resume_at: u8,
    /// Reports that all peers together may send in a second before they are told to gather longer.
    pub reports_per_s: u32,
    /// The longest that peers are told to gather.
    pub report_interval_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers_max: 1 << 20,
            partners_drawn: 12,
            partners_max: 48,
            seed_partners_max: 64,
            partners_min: 8,
            full_mesh_max: 24,
            partners_across: 4,
            warm_max: 64,
            candidates: 8,
            slots_many: 6,
            slots_few: 4,
            queue_max: 32,
            queue_start: 8,
            queue_ahead_min: 2,
            queue_bytes: 64 << 20,
            stuck: Duration::from_millis(500),
            window_max: 48,
            window_bytes: 64 << 20,
            starving: Duration::from_secs(5),
            pair_rest: Duration::from_secs(2),
            blame: Duration::from_secs(15),
            question: Duration::from_secs(10),
            unproven: Duration::from_millis(1250),
            hashes_wait: Duration::from_millis(2500),
            hopeless: Duration::from_secs(5),
            timeouts_to_blame: 3,
            lead_percent: 5,
            read_lease: Duration::from_secs(3),
            seed_wait: Duration::from_secs(5),
            settle: Duration::from_secs(5),
            tasks_max: 200_000,
            pieces_max: 16 << 20,
            wants_max: 4096,
            reads_max: 256,
            holders_max: 32,
            planned_per_s: 200_000,
            shed_at: 70,
            resume_at: 45,
            reports_per_s: 100_000,
            report_interval_max: Duration::from_millis(100),
        }
    }
}
