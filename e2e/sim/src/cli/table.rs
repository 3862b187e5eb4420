//! Figures as text.

use std::fmt::Write as _;

use super::Report;

/// One history.
pub(crate) fn in_words(report: &Report) -> String {
    let Report { scenario, seed, peers, bytes, piece_len, lower_bound_s, .. } = report;
    let mut text =
        format!("{scenario}, seed {seed}: {peers} peers, {bytes} bytes in pieces of {piece_len}\n");
    let mut line = |name: &str, value: f64, note: String| {
        writeln!(text, "{name:16}{value:10.4} {note}").expect("a string takes everything");
    };
    let of_bound = |ratio: f64| format!("s   {ratio:.3} of the bound");
    line("lower bound", *lower_bound_s, "s".to_owned());
    line("last peer", report.last_s, of_bound(report.ratio_last));
    line("999 of 1000", report.p999_s, of_bound(report.ratio_p999));
    line("99 of 100", report.p99_s, of_bound(report.ratio_p99));
    line("half", report.p50_s, of_bound(report.ratio_p50));
    line("own bound, p99", report.ratio_own_p99, "× (worst link class)".to_owned());
    line("last client", report.client_last_s, of_bound(report.ratio_client_last));
    line("longest silence", report.longest_silence_s, "s".to_owned());
    line("source ratio", report.source_ratio, String::new());
    line("wasted ratio", report.wasted_ratio, String::new());
    line("zone copies", report.zone_copies, String::new());
    line("connections", count(report.connections_per_peer), "of half of the peers, at most".to_owned());
    line("control", report.control_messages_per_piece, "messages a piece".to_owned());
    line("planner", report.planner_us_per_piece, "µs a piece".to_owned());
    line("planner's heap", count(report.planner_peak_bytes) / f64::from(1 << 20), "MiB at most".to_owned());
    if report.failed_downloads > 0 {
        line("failed", count(report.failed_downloads), "downloads, on nodes that cannot store".to_owned());
    }
    text.trim_end().to_owned()
}

/// A row for each history, and one of medians.
pub(crate) fn of_seeds(reports: &[Report]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let mut text = format!("{}, {} peers, {} bytes\n{:6}", first.scenario, first.peers, first.bytes, "seed");
    for (name, _) in COLUMNS {
        write!(text, " {name:>11}").expect("a string takes everything");
    }
    for report in reports {
        row(&mut text, &report.seed.to_string(), |figure| figure(report));
    }
    row(&mut text, "median", |figure| {
        let mut values: Vec<f64> = reports.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    });
    text
}

fn row(text: &mut String, name: &str, value: impl Fn(Figure) -> f64) {
    write!(text, "\n{name:6}").expect("a string takes everything");
    for (_, figure) in COLUMNS {
        write!(text, " {:>11.4}", value(*figure)).expect("a string takes everything");
    }
}

fn count(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

type Figure = fn(&Report) -> f64;

const COLUMNS: &[(&str, Figure)] = &[
    ("bound_s", |report| report.lower_bound_s),
    ("last", |report| report.ratio_last),
    ("p50", |report| report.ratio_p50),
    ("p99", |report| report.ratio_p99),
    ("p99.9", |report| report.ratio_p999),
    ("own p99", |report| report.ratio_own_p99),
    ("client last", |report| report.ratio_client_last),
    ("silence_s", |report| report.longest_silence_s),
    ("source", |report| report.source_ratio),
    ("wasted", |report| report.wasted_ratio),
    ("zone copies", |report| report.zone_copies),
    ("connections", |report| count(report.connections_per_peer)),
    ("planner_us", |report| report.planner_us_per_piece),
];
