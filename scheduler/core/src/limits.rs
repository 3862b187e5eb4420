//! Every bound of the planner, and what happens at it.

use std::time::Duration;

/// The planner's bounds. The defaults are those of `scheduling.md` §3 and §4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Partners a newcomer draws for a download.
    pub partners_drawn: usize,
    /// Partners a peer may have for one download. A peer at the bound is drawn no more.
    pub partners_max: usize,
    /// The same, for a seed.
    pub seed_partners_max: usize,
    /// Below this many partners a download draws new ones.
    pub partners_min: usize,
    /// Candidates a choice looks at; two to eight are as good as all (§2e).
    pub candidates: usize,
    /// Pieces a parent may owe, over all tasks (Q). A parent at the bound gets no more.
    pub queue_max: u32,
    /// Pieces an unproven parent may owe; one more for each piece it delivers.
    pub queue_start: u32,
    /// Pieces a child may await per task (W). A child at the bound gets no more.
    pub window_max: usize,
    /// Bytes a child may await over all tasks: its receive budget (DESIGN.md §7).
    pub window_bytes: u64,
    /// How long a child and a parent that failed each other are kept apart.
    pub pair_rest: Duration,
    /// How long a parent that sent a corrupt piece, or failed several children, comes last.
    pub blame: Duration,
    /// How long a download that was sent corrupt pieces may get nothing before it fails: every
    /// way to the bytes may be barred to it.
    pub hopeless: Duration,
    /// Children whose transfers time out before a parent is blamed.
    pub timeouts_to_blame: usize,
    /// How long a vanished seed may go on reading: its read lease (DESIGN.md §5.4). The next
    /// seed is told to read only after it.
    pub read_lease: Duration,
    /// How long a wanted blob waits for a seed to appear before the download fails.
    pub seed_wait: Duration,
    /// How long a fresh planner waits for configured seeds before it orders source reads.
    pub settle: Duration,
    /// Blobs known at once. At the bound a want fails and an announcement is not recorded.
    pub tasks_max: usize,
    /// Idle holders known of one blob; more would plan no better.
    pub holders_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            partners_drawn: 16,
            partners_max: 32,
            seed_partners_max: 64,
            partners_min: 8,
            candidates: 8,
            queue_max: 10,
            queue_start: 4,
            window_max: 12,
            window_bytes: 64 << 20,
            pair_rest: Duration::from_secs(2),
            blame: Duration::from_secs(15),
            hopeless: Duration::from_secs(5),
            timeouts_to_blame: 3,
            read_lease: Duration::from_secs(3),
            seed_wait: Duration::from_secs(5),
            settle: Duration::from_secs(5),
            tasks_max: 200_000,
            holders_max: 32,
        }
    }
}
