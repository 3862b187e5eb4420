//! Whose bytes a registry's clients may be shown (docs/design.md §7): what the registry itself gave, or those that the
//! operator trusts as they trust it.
//!
//! That a registry says to hold a digest is no reason to show its clients what another one gave. It may lie.

use flotilla_daemon::settings::RegionSettings;
use flotilla_proto::{Digest, Origins, RegistryHost, RegistryMark};

use crate::store::Store;

/// A registry, and those that share its trust.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    marks: Vec<RegistryMark>,
    /// Whether that is every registry there is: then it does not matter who gave what nobody noted.
    is_everybody: bool,
}

impl Trust {
    pub(crate) fn of(upstream: &RegistryHost, settings: &RegionSettings) -> Self {
        let group = settings.upstream(upstream).and_then(|known| known.trust.as_ref());
        let shares =
            |other: &RegistryHost, its: Option<_>| other == upstream || group.is_some() && its == group;
        let (with, without): (Vec<_>, Vec<_>) =
            settings.registries.iter().partition(|other| shares(&other.host, other.trust.as_ref()));
        let own = RegistryMark::of(upstream);
        let others = with.iter().map(|other| RegistryMark::of(&other.host)).filter(|mark| *mark != own);
        Self { marks: std::iter::once(own).chain(others).collect(), is_everybody: without.is_empty() }
    }

    /// Whether no other registry gave any of it.
    pub(crate) fn covers(&self, origins: &Origins) -> bool {
        let covers = |mark: &RegistryMark| match *mark {
            RegistryMark::UNKNOWN => self.is_everybody,
            known => self.marks.contains(&known),
        };
        origins.marks().iter().all(covers)
    }

    /// One of them that is known to have delivered the whole blob.
    pub(crate) fn deliverer(&self, store: &Store, digest: Digest) -> Option<RegistryMark> {
        self.marks.iter().copied().find(|mark| store.is_delivered(digest, *mark))
    }
}

#[cfg(test)]
mod tests {
    use flotilla_daemon::settings::{Endpoint, Upstream};
    use flotilla_proto::Identity;

    use super::*;

    fn host(name: &str) -> RegistryHost {
        name.parse().unwrap()
    }

    fn settings(registries: &[(&str, Option<&str>)]) -> RegionSettings {
        let identity: Identity = "flotilla://acme/eu/peer/one".parse().unwrap();
        let upstream = |(name, trust): &(&str, Option<&str>)| {
            let endpoint = Endpoint::new("https://x".parse().unwrap());
            let upstream = Upstream::new(host(name), vec![endpoint]).unwrap();
            Upstream { trust: trust.map(|trust| trust.parse().unwrap()), ..upstream }
        };
        let registries = registries.iter().map(upstream).collect();
        RegionSettings { registries, ..RegionSettings::none_yet(&identity).unwrap() }
    }

    fn origins(names: &[&str]) -> Origins {
        names.iter().map(|name| RegistryMark::of(&host(name))).collect()
    }

    #[test]
    fn a_registry_covers_its_own_bytes_and_those_of_its_group() {
        let settings = settings(&[
            ("a.test", Some("ours")),
            ("b.test", Some("ours")),
            ("c.test", None),
            ("d.test", None),
        ]);
        let trust = Trust::of(&host("a.test"), &settings);
        assert!(trust.covers(&Origins::default()) && trust.covers(&origins(&["a.test", "b.test"])));
        assert!(!trust.covers(&origins(&["a.test", "c.test"])));
        assert!(!trust.covers(&Origins::unknown()));
        // Who is in no group shares with nobody, not with another that is in none either.
        let alone = Trust::of(&host("c.test"), &settings);
        assert!(alone.covers(&origins(&["c.test"])) && !alone.covers(&origins(&["d.test"])));
        // One that is no longer configured is itself, and no more.
        assert!(!Trust::of(&host("gone.test"), &settings).covers(&origins(&["a.test"])));
    }

    #[test]
    fn where_all_are_trusted_alike_it_does_not_matter_who_gave_what_nobody_noted() {
        let one = settings(&[("a.test", None)]);
        let trust = Trust::of(&host("a.test"), &one);
        assert!(trust.covers(&Origins::unknown()));
        // What is known to be of one that was removed is not.
        assert!(!trust.covers(&origins(&["gone.test"])));
        assert!(!Trust::of(&host("gone.test"), &one).covers(&Origins::unknown()));
        let two = settings(&[("a.test", Some("ours")), ("b.test", Some("ours"))]);
        assert!(Trust::of(&host("b.test"), &two).covers(&Origins::unknown()));
    }
}
