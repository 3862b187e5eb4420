//! The command line as a person or a script meets it.

use std::collections::BTreeSet;
use std::process::{Command, Output};

#[test]
fn list_names_every_scenario() {
    let listed = sim(&["list"]);
    for scenario in flotilla_e2e_sim::catalogue::all() {
        assert!(text(&listed.stdout).contains(scenario.name));
    }
}

#[test]
fn json_has_the_keys_that_scripts_read() {
    let ran = sim(&["run", "small-images", "--seed", "3", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    let keys = "scenario seed peers bytes piece_len lower_bound_s last_s client_last_s ratio_client_last \
                longest_silence_s p50_s p99_s p999_s ratio_last ratio_p50 ratio_p99 ratio_p999 ratio_own_p99 \
                zone_copies source_ratio wasted_ratio connections_per_peer control_messages_per_piece \
                planner_us_per_piece planner_peak_bytes";
    let keys: BTreeSet<&str> = keys.split_whitespace().collect();
    let found: BTreeSet<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, keys);
    assert_eq!((&report["scenario"], &report["seed"]), (&"small-images".into(), &3.into()));
}

#[test]
fn an_unknown_scenario_is_an_error_that_names_the_nearest() {
    let ran = sim(&["run", "even_12"]);
    assert!(!ran.status.success() && ran.stdout.is_empty());
    assert!(text(&ran.stderr).contains("did you mean `even-12`?"), "{}", text(&ran.stderr));
}

#[test]
fn help_shows_examples() {
    for args in [&["--help"][..], &["run", "--help"]] {
        assert!(text(&sim(args).stdout).contains("cargo sim -- run even-12"));
    }
}

#[test]
fn several_seeds_make_a_table_with_medians() {
    let ran = sim(&["run", "small-images", "--seeds", "3"]);
    let table = text(&ran.stdout);
    assert_eq!(table.lines().count(), 6, "a title, names, three seeds, medians: {table}");
    assert!(table.lines().last().unwrap().starts_with("median"));
}

#[test]
fn explain_names_the_parent_and_ranks_its_rivals() {
    let ran = sim(&["explain", "even-50", "--peer", "3", "--piece", "100"]);
    let answer = text(&ran.stdout);
    assert!(answer.contains("s: from ") && answer.contains("piece 100 of"), "{answer}");
    assert!(answer.matches("trusted").count() > 1, "{answer}");
}

#[test]
fn a_plot_is_an_image_with_both_curves_and_the_bound() {
    let out = tempfile::NamedTempFile::new().expect("a place for the plot");
    let ran = sim(&["plot", "even-50", "--out", out.path().to_str().unwrap()]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let svg = std::fs::read_to_string(out.path()).unwrap();
    assert!(svg.contains("Flotilla") && svg.contains("random graph") && svg.contains("lower bound"));
}

#[test]
fn gates_of_one_scenario_say_which_figure_is_held_to_what() {
    let ran = sim(&["gates", "--only", "lone-late", "--seeds", "1"]);
    assert!(text(&ran.stdout).contains("ratio_last"), "{}", text(&ran.stdout));
}

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flotilla-e2e-sim")).args(args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}
