//! Grants: proof that a registry has just accepted a credential for a repository
//! (docs/design.md §7). A byte leaves this peer only under one.

mod confirmed;
mod manifests;
mod trust;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_proto::{Authorization, CredentialHash, Digest, RegistryHost, RepositoryName};
use serde::Deserialize;

pub(crate) use confirmed::Confirmed;
pub(crate) use manifests::{MAX_MANIFEST, Manifest, Manifests, blobs};
pub(crate) use trust::Trust;

/// Whom a registry accepted, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    pub(crate) upstream: RegistryHost,
    pub(crate) repository: RepositoryName,
    pub(crate) credential: CredentialHash,
}

/// The grants of this peer's clients. Bounded: at [`MAX_GRANTS`] the one that ends first
/// goes, and its client is probed again.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// Held for one look-up or change.
    grants: Mutex<HashMap<Holder, Grant>>,
}

#[derive(Debug)]
struct Grant {
    blobs: HashMap<Digest, Granted>,
    /// The manifests that were served, by what they were asked for: a tag, or their digest.
    manifests: HashMap<String, Served>,
    /// When the last of it ends.
    ends_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Granted {
    size: u64,
    ends_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Served {
    digest: Digest,
    ends_at: Instant,
}

impl Grants {
    /// The registry has served or confirmed a manifest, or a blob, under this credential: these blobs
    /// may be had with it for `life`.
    pub(crate) fn record(
        &self,
        holder: Holder,
        blobs: impl IntoIterator<Item = (Digest, u64)>,
        life: Duration,
        now: Instant,
    ) {
        self.change(holder, now, now + life, |grant, ends_at| {
            let granted = blobs.into_iter().map(|(digest, size)| (digest, Granted { size, ends_at }));
            grant.blobs.extend(granted);
        });
    }

    /// The blob turned out to have this size: what is granted of it lives as long as before.
    pub(crate) fn correct_size(&self, holder: &Holder, digest: Digest, size: u64) {
        let mut grants = self.lock();
        if let Some(granted) = grants.get_mut(holder).and_then(|grant| grant.blobs.get_mut(&digest)) {
            granted.size = size;
        }
    }

    /// The registry has served this manifest to whoever asked for `reference`.
    pub(crate) fn record_manifest(
        &self,
        holder: Holder,
        reference: &str,
        digest: Digest,
        life: Duration,
        now: Instant,
    ) {
        self.change(holder, now, now + life, |grant, ends_at| {
            grant.manifests.insert(reference.to_owned(), Served { digest, ends_at });
            grant.manifests.insert(digest.to_string(), Served { digest, ends_at });
        });
    }

    fn change(&self, holder: Holder, now: Instant, ends_at: Instant, add: impl FnOnce(&mut Grant, Instant)) {
        let mut grants = self.lock();
        if grants.len() >= MAX_GRANTS && !grants.contains_key(&holder) {
            let ends_first = grants.iter().min_by_key(|(_, grant)| grant.ends_at);
            let ends_first = ends_first.map(|(holder, _)| holder.clone()).expect("not empty");
            grants.remove(&ends_first);
        }
        let fresh = || Grant { blobs: HashMap::new(), manifests: HashMap::new(), ends_at };
        let grant = grants.entry(holder).or_insert_with(fresh);
        if grant.blobs.len() + grant.manifests.len() >= MAX_IN_GRANT {
            grant.blobs.retain(|_, granted| now < granted.ends_at);
            grant.manifests.retain(|_, served| now < served.ends_at);
        }
        if grant.blobs.len() + grant.manifests.len() >= MAX_IN_GRANT {
            grant.blobs.clear();
            grant.manifests.clear();
        }
        grant.ends_at = grant.ends_at.max(ends_at);
        add(grant, ends_at);
    }

    /// The blob's size, if the credential is granted it, or was until `longer` ago.
    pub(crate) fn find(
        &self,
        holder: &Holder,
        digest: Digest,
        now: Instant,
        longer: Duration,
    ) -> Option<u64> {
        let grants = self.lock();
        let granted = grants.get(holder)?.blobs.get(&digest)?;
        (now < granted.ends_at + longer).then_some(granted.size)
    }

    /// How long a blob is by the word of a manifest of its repository, to whomever that was served and
    /// however long ago. It grants nothing. Costs a look at each grant.
    pub(crate) fn size(
        &self,
        upstream: &RegistryHost,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Option<u64> {
        let grants = self.lock();
        let here = grants
            .iter()
            .filter(|(holder, _)| holder.upstream == *upstream && holder.repository == *repository);
        here.filter_map(|(_, grant)| grant.blobs.get(&digest)).map(|granted| granted.size).next()
    }

    /// The manifest that the credential was served for `reference`, its grant having ended no longer ago.
    pub(crate) fn manifest(
        &self,
        holder: &Holder,
        reference: &str,
        now: Instant,
        longer: Duration,
    ) -> Option<Digest> {
        let grants = self.lock();
        let served = grants.get(holder)?.manifests.get(reference)?;
        (now < served.ends_at + longer).then_some(served.digest)
    }

    /// The credential is granted the blob no longer.
    pub(crate) fn forget(&self, holder: &Holder, digest: Digest) {
        if let Some(grant) = self.lock().get_mut(holder) {
            grant.blobs.remove(&digest);
        }
    }

    /// The repository holds the blob no longer.
    pub(crate) fn forget_blob(&self, upstream: &RegistryHost, repository: &RepositoryName, digest: Digest) {
        self.change_repository(upstream, repository, |grant| {
            grant.blobs.remove(&digest);
        });
    }

    /// The reference means another manifest now.
    pub(crate) fn forget_reference(
        &self,
        upstream: &RegistryHost,
        repository: &RepositoryName,
        reference: &str,
    ) {
        self.change_repository(upstream, repository, |grant| {
            grant.manifests.remove(reference);
        });
    }

    /// What the repository holds is to be found out anew.
    pub(crate) fn forget_repository(&self, upstream: &RegistryHost, repository: &RepositoryName) {
        self.change_repository(upstream, repository, |grant| {
            grant.blobs.clear();
            grant.manifests.clear();
        });
    }

    /// Costs a look at each grant.
    fn change_repository(
        &self,
        upstream: &RegistryHost,
        repository: &RepositoryName,
        change: impl Fn(&mut Grant),
    ) {
        let mut grants = self.lock();
        let here = grants
            .iter_mut()
            .filter(|(holder, _)| holder.upstream == *upstream && holder.repository == *repository);
        here.for_each(|(_, grant)| change(grant));
    }

    /// The registry refused this credential: what it was granted there is void.
    pub(crate) fn revoke(&self, holder: &Holder) {
        self.lock().remove(holder);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Holder, Grant>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a grant lives: a registry's own judgement, and no longer than it can know.
pub(crate) fn life(authorization: &Authorization, now: SystemTime) -> Duration {
    match authorization.scheme() {
        "bearer" => remaining_life(authorization, now).map_or(OPAQUE_LIFE, |life| life.min(MAX_TOKEN_LIFE)),
        "basic" => BASIC_LIFE,
        _ => OPAQUE_LIFE,
    }
}

/// What is left of a JWT's life (RFC 7519 §4.1.4); `None` if the token is no JWT. The
/// signature is the registry's to check: it has just accepted the token.
fn remaining_life(authorization: &Authorization, now: SystemTime) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let header = std::str::from_utf8(authorization.expose()).ok()?;
    let token = header.split_once(' ')?.1.trim();
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Duration::try_from_secs_f64((claims.exp - now).max(0.0)).ok()
}

const MAX_TOKEN_LIFE: Duration = Duration::from_secs(600);
const OPAQUE_LIFE: Duration = Duration::from_secs(60);
const BASIC_LIFE: Duration = Duration::from_secs(30);

/// (upstream, repository, credential) triples.
const MAX_GRANTS: usize = 16_384;

/// Blobs and manifests of one of them; at the limit what has ended goes, else all of it, and its
/// client is probed.
const MAX_IN_GRANT: usize = 16_384;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(repository: &str, secret: &'static str) -> Holder {
        Holder {
            upstream: "harbor.test".parse().unwrap(),
            repository: repository.parse().unwrap(),
            credential: Authorization::new(secret).hash(),
        }
    }

    fn bearer(claims: &str) -> Authorization {
        Authorization::new(format!("Bearer h.{}.s", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn a_grant_serves_its_own_credential_repository_and_blobs_until_it_ends() {
        let (grants, now) = (Grants::default(), Instant::now());
        let (digest, other) = (Digest::of(b"a"), Digest::of(b"b"));
        grants.record(holder("priv/app", "Basic x"), [(digest, 7)], Duration::from_secs(30), now);
        assert_eq!(grants.find(&holder("priv/app", "Basic x"), digest, now, Duration::ZERO), Some(7));
        assert_eq!(grants.find(&holder("priv/app", "Basic y"), digest, now, Duration::ZERO), None);
        assert_eq!(grants.find(&holder("priv/other", "Basic x"), digest, now, Duration::ZERO), None);
        assert_eq!(grants.find(&holder("priv/app", "Basic x"), other, now, Duration::ZERO), None);
        let later = now + Duration::from_secs(30);
        assert_eq!(grants.find(&holder("priv/app", "Basic x"), digest, later, Duration::ZERO), None);
    }

    #[test]
    fn a_size_that_is_corrected_gives_its_grant_no_longer_life_and_makes_none() {
        let (grants, now) = (Grants::default(), Instant::now());
        let (holder, digest) = (holder("app", "x"), Digest::of(b"a"));
        grants.correct_size(&holder, digest, 7);
        assert_eq!(grants.find(&holder, digest, now, Duration::ZERO), None);
        grants.record(holder.clone(), [(digest, 1)], Duration::from_secs(30), now);
        grants.correct_size(&holder, digest, 7);
        assert_eq!(grants.find(&holder, digest, now, Duration::ZERO), Some(7));
        assert_eq!(grants.find(&holder, digest, now + Duration::from_secs(30), Duration::ZERO), None);
    }

    #[test]
    fn a_grant_that_ended_takes_nothing_into_its_next_life() {
        let (grants, now) = (Grants::default(), Instant::now());
        let (digest, other) = (Digest::of(b"a"), Digest::of(b"b"));
        grants.record(holder("app", "x"), [(digest, 1)], Duration::from_secs(1), now);
        let later = now + Duration::from_secs(2);
        grants.record(holder("app", "x"), [(other, 1)], Duration::from_secs(1), later);
        assert_eq!(grants.find(&holder("app", "x"), digest, later, Duration::ZERO), None);
    }

    #[test]
    fn a_grant_is_prolonged_for_whoever_says_so_and_by_no_more() {
        let (grants, now, digest) = (Grants::default(), Instant::now(), Digest::of(b"a"));
        let (life, hour) = (Duration::from_secs(30), Duration::from_secs(3600));
        let holder = holder("app", "x");
        grants.record(holder.clone(), [(digest, 7)], life, now);
        grants.record_manifest(holder.clone(), "v1", Digest::of(b"{}"), life, now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(grants.find(&holder, digest, later, Duration::ZERO), None);
        assert_eq!(grants.find(&holder, digest, later, hour), Some(7));
        for reference in ["v1", &Digest::of(b"{}").to_string()] {
            assert_eq!(grants.manifest(&holder, reference, later, hour), Some(Digest::of(b"{}")));
            assert_eq!(grants.manifest(&holder, reference, later, Duration::ZERO), None);
        }
        assert_eq!(grants.manifest(&holder, "v2", now, hour), None);
        let end = now + life + hour;
        assert_eq!(grants.find(&holder, digest, end, hour), None);
        grants.revoke(&holder);
        assert_eq!(grants.find(&holder, digest, now, hour), None);
    }

    #[test]
    fn a_grant_holds_so_much_and_no_more() {
        let (grants, now) = (Grants::default(), Instant::now());
        for blob in 0..3 * MAX_IN_GRANT {
            let digest = Digest::of(&blob.to_le_bytes());
            grants.record(holder("app", "x"), [(digest, 1)], Duration::from_secs(9), now);
        }
        assert!(grants.lock()[&holder("app", "x")].blobs.len() <= MAX_IN_GRANT);
    }

    #[test]
    fn what_a_repository_holds_no_longer_is_granted_to_nobody() {
        let (grants, now, life) = (Grants::default(), Instant::now(), Duration::from_secs(9));
        let (one, two, manifest) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"{}"));
        let holders = [holder("app", "x"), holder("app", "y"), holder("other", "x")];
        for holder in &holders {
            grants.record(holder.clone(), [(one, 1), (two, 1)], life, now);
            grants.record_manifest(holder.clone(), "v1", manifest, life, now);
        }
        let blobs =
            |digest| holders.each_ref().map(|it| grants.find(it, digest, now, Duration::ZERO).is_some());
        let tags = || holders.each_ref().map(|it| grants.manifest(it, "v1", now, Duration::ZERO).is_some());
        let (upstream, repository) = (&holders[0].upstream, &holders[0].repository);
        grants.forget_blob(upstream, repository, one);
        assert_eq!((blobs(one), blobs(two), tags()), ([false, false, true], [true; 3], [true; 3]));
        grants.forget_reference(upstream, repository, "v1");
        assert_eq!((blobs(two), tags()), ([true; 3], [false, false, true]));
        grants.forget_repository(upstream, repository);
        assert_eq!(blobs(two), [false, false, true]);
    }

    #[test]
    fn a_refusal_voids_the_grant() {
        let (grants, now) = (Grants::default(), Instant::now());
        grants.record(holder("app", "x"), [(Digest::of(b"a"), 1)], Duration::from_secs(9), now);
        grants.revoke(&holder("app", "x"));
        assert_eq!(grants.find(&holder("app", "x"), Digest::of(b"a"), now, Duration::ZERO), None);
    }

    #[test]
    fn a_grant_lives_no_longer_than_its_credential_can_be_trusted() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(life(&bearer(r#"{"exp":1000090}"#), now), Duration::from_secs(90));
        assert_eq!(life(&bearer(r#"{"exp":1009000}"#), now), MAX_TOKEN_LIFE);
        assert_eq!(life(&bearer(r#"{"exp":5}"#), now), Duration::ZERO);
        assert_eq!(life(&Authorization::new("Bearer opaque"), now), OPAQUE_LIFE);
        assert_eq!(life(&Authorization::new("Basic dTpw"), now), BASIC_LIFE);
    }

    proptest! {
        #[test]
        fn no_credential_lives_longer_than_its_kind(header in "(Bearer|Basic|bearer|)[ -~]{0,40}", exp: f64) {
            let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
            for credential in [Authorization::new(header), bearer(&format!("{{\"exp\":{exp}}}"))] {
                prop_assert!(life(&credential, now) <= MAX_TOKEN_LIFE);
            }
        }
    }
}
