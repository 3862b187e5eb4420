//! Failures that pass: every client gets its image, and the registry is read no more than it
//! must be.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Setting, large};
use crate::harbor::{Harbor, On, What};
use crate::image::Image;
use crate::stage::Stage;

/// A failure.
struct Case {
    name: &'static str,
    /// What strikes the large layer, and how often.
    faults: &'static [(Place, What, u64)],
    /// What the registry sends of the blobs at most, in percent of their size.
    most_percent: u64,
}

/// Where a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Registry,
    Storage,
}

const MIB: usize = 1 << 20;

const CASES: [Case; 9] = [
    Case { name: "cut", faults: &[(Place::Registry, What::CutAfter(MIB), 1)], most_percent: 101 },
    Case { name: "cut-again", faults: &[(Place::Registry, What::CutAfter(MIB), 3)], most_percent: 101 },
    Case { name: "stall", faults: &[(Place::Registry, What::StallAfter(MIB), 1)], most_percent: 101 },
    Case { name: "truncated", faults: &[(Place::Registry, What::Truncate(MIB), 1)], most_percent: 101 },
    Case {
        name: "no-ranges",
        faults: &[(Place::Registry, What::CutAfter(MIB), 1), (Place::Registry, What::IgnoreRange, u64::MAX)],
        // The first MiB comes twice.
        most_percent: 120,
    },
    Case {
        name: "too-many",
        faults: &[(Place::Registry, What::TooMany { retry_after: Some(1) }, 2)],
        most_percent: 101,
    },
    Case { name: "unavailable", faults: &[(Place::Registry, What::Status(503), 3)], most_percent: 101 },
    Case { name: "expired-url", faults: &[(Place::Storage, What::Status(403), 1)], most_percent: 101 },
    Case { name: "storage-cut", faults: &[(Place::Storage, What::CutAfter(MIB), 1)], most_percent: 101 },
];

pub(in crate::story) fn are_bridged(stage: &Stage) -> Result<()> {
    let setting = Setting::lay(stage, 3)?;
    let mut failures = String::new();
    for (seed, case) in (1..).zip(&CASES) {
        let start = Instant::now();
        match case.play(&setting, seed) {
            Ok(()) => println!("{}: bridged in {:.1} s", case.name, start.elapsed().as_secs_f32()),
            Err(error) => write!(failures, "\n{}: {error:#}", case.name)?,
        }
    }
    ensure!(failures.is_empty(), "not bridged:{failures}");
    setting.region.assert_no_error_logged()
}

impl Case {
    fn play(&self, setting: &Setting<'_>, seed: u64) -> Result<()> {
        let image = setting.image(self.name, seed);
        let harbor = &setting.harbor;
        let before = harbor.log();
        let handles = self.order(harbor, &image);
        let pulled = setting.pull_everywhere(&image, self.name);
        harbor.configure(|harbor| harbor.redirect_blobs = false);
        for handle in &handles {
            handle.clear();
        }
        let log = harbor.log().since(&before);
        pulled.with_context(|| log.to_string())?;
        ensure!(handles.iter().all(|handle| handle.hits() > 0), "a fault struck nothing:\n{log}");
        let sent: u64 = log.blob_reads().values().map(|reads| reads.bytes).sum();
        let most = image.size() * self.most_percent / 100;
        ensure!(sent <= most, "the registry sent {sent} bytes of {}, at most {most}:\n{log}", image.size());
        Ok(())
    }

    fn order(&self, harbor: &Harbor, image: &Image) -> Vec<crate::harbor::FaultHandle> {
        let redirects = self.faults.iter().any(|(place, ..)| *place == Place::Storage);
        harbor.configure(|harbor| harbor.redirect_blobs = redirects);
        let order = |&(place, what, times): &(Place, What, u64)| {
            let on = match place {
                Place::Registry => On::blobs(),
                Place::Storage => On::storage(),
            };
            harbor.fault(on.get().digest(large(image)).times(times), what)
        };
        self.faults.iter().map(order).collect()
    }
}

/// Each answer takes 2.5 s to begin; ten nodes ask at once, and each blob is read once.
pub(in crate::story) fn ten_peers_at_a_slow_registry(stage: &Stage) -> Result<()> {
    let setting = Setting::lay(stage, 10)?;
    let image = setting.image("slow", 1);
    setting.harbor.configure(|harbor| harbor.latency = Duration::from_millis(2_500));
    setting.pull_everywhere(&image, "slow")?;
    let log = setting.harbor.log();
    log.assert_each_blob_read_once(&image).with_context(|| log.to_string())?;
    setting.region.assert_no_error_logged()
}
