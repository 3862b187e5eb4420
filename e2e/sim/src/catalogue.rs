//! The scenarios that `cargo sim` knows.

mod gated;
mod small;

use crate::scenario::Scenario;

/// All scenarios, in the order in which they are listed.
pub fn all() -> Vec<Scenario> {
    let mut scenarios = small::all();
    scenarios.extend(gated::all());
    scenarios
}

/// The scenario of that name.
///
/// # Errors
/// If there is none; the error names the nearest.
pub fn find(name: &str) -> Result<Scenario, UnknownScenario> {
    let scenarios = all();
    let distance = |scenario: &Scenario| strsim::damerau_levenshtein(scenario.name, name);
    let nearest =
        scenarios.iter().min_by_key(|scenario| distance(scenario)).expect("there are scenarios").name;
    let found = scenarios.into_iter().find(|scenario| scenario.name == name);
    found.ok_or_else(|| UnknownScenario { name: name.to_owned(), nearest })
}

/// A name that no scenario has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no scenario is called `{name}`; did you mean `{nearest}`? `cargo sim -- list` shows them all")]
pub struct UnknownScenario {
    /// What was asked for.
    pub name: String,
    /// What is most like it.
    pub nearest: &'static str,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        let names: BTreeSet<&str> = all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().len());
        for name in names {
            assert_eq!(find(name).unwrap().name, name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        assert_eq!(find("even12").unwrap_err().nearest, "even-12");
        assert_eq!(find("seed-die").unwrap_err().nearest, "seed-dies");
    }
}
