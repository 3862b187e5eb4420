//! What the packages hold, as the manifest says it.

// Helpers of tests are tests too; clippy's own exception is for functions marked `#[test]`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use toml::{Table, Value};

#[test]
fn both_packages_hold_the_same_and_all_of_it_exists() {
    let (deb, rpm) = (deb(), rpm());
    assert_eq!(deb, rpm);
    for source in deb.iter().filter(|source| !source.starts_with("target/")) {
        assert!(Path::new(source).is_file(), "{source}");
    }
}

#[test]
fn every_unit_and_every_sample_of_a_machine_is_packaged() {
    let packaged = deb();
    // One is for containers alone.
    let sample = |name: &str| name != "peer-in-container.toml";
    for (dir, wanted) in [("docker/systemd", None), ("docker/config", Some(sample))] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_wanted = wanted.is_none_or(|wanted| wanted(&name));
            assert_eq!(packaged.contains(&format!("{dir}/{name}")), is_wanted, "{dir}/{name}");
        }
    }
}

#[test]
fn a_configuration_that_a_person_changed_outlives_an_upgrade() {
    let samples: BTreeSet<String> = deb().into_iter().filter(|it| it.starts_with("docker/config/")).collect();
    let kept = metadata("deb")["conf-files"].as_array().unwrap().clone();
    let kept: BTreeSet<String> =
        kept.iter().map(|file| file.as_str().unwrap().replace("/etc/flotilla", "docker/config")).collect();
    assert_eq!(kept, samples);
    for asset in metadata("generate-rpm")["assets"].as_array().unwrap() {
        let is_sample = asset["source"].as_str().unwrap().starts_with("docker/config/");
        let kept = asset.get("config").and_then(Value::as_str) == Some("noreplace");
        assert_eq!(kept, is_sample, "{asset}");
    }
}

/// Sources of the `.deb`.
fn deb() -> BTreeSet<String> {
    let assets = metadata("deb")["assets"].as_array().unwrap().clone();
    assets.iter().map(|asset| asset[0].as_str().unwrap().to_owned()).collect()
}

/// Sources of the `.rpm`.
fn rpm() -> BTreeSet<String> {
    let assets = metadata("generate-rpm")["assets"].as_array().unwrap().clone();
    assets.iter().map(|asset| asset["source"].as_str().unwrap().to_owned()).collect()
}

fn metadata(of: &str) -> Table {
    let manifest: Table = include_str!("../Cargo.toml").parse().unwrap();
    manifest["package"]["metadata"][of].as_table().unwrap().clone()
}
