//! The tokens of `/service/token` (§2.1).
//!
//! They look like Harbor's RS256 tokens, length included. The signature is a hash with a key
//! that this process alone has: enough to tell a forgery, and the fake is the only reader.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use flotilla_proto::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::project_of;

/// Makes tokens and judges them.
#[derive(Debug)]
pub(super) struct Tokens {
    key: [u8; 32],
    /// The serial of the next token or project: what is older has a lower one.
    next_serial: u64,
    /// Tokens below it count as expired, whatever they state.
    expired_below: u64,
}

/// What a token states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    /// Who asked for it; empty for nobody.
    pub(super) sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    access: Vec<Grant>,
}

/// What a token lets its bearer do with one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) actions: Vec<String>,
}

/// For how long a token is good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) from: SystemTime,
    pub(super) life: Duration,
}

impl Tokens {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        fastrand::fill(&mut key);
        Self { key, next_serial: 1, expired_below: 0 }
    }

    /// A number above all before it.
    pub(super) fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    pub(super) fn expire_all(&mut self) {
        self.expired_below = self.serial();
    }

    pub(super) fn issue(&mut self, subject: &str, access: Vec<Grant>, life: Life) -> String {
        let from = seconds(life.from);
        let claims = Claims {
            iss: "harbor-token-issuer".to_owned(),
            sub: subject.to_owned(),
            aud: SERVICE.to_owned(),
            exp: from + life.life.as_secs(),
            nbf: from,
            iat: from,
            jti: self.serial().to_string(),
            access,
        };
        let header = json!({ "alg": "RS256", "kid": "FAKE:HARB:OR", "typ": "JWT" });
        let claims = serde_json::to_vec(&claims).expect("claims are plain data");
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims));
        let signature = encode(self.sign(&signed));
        format!("{signed}.{signature}")
    }

    /// The claims of a token that is ours and has not expired.
    pub(super) fn verify(&self, token: &str, now: SystemTime, leeway: Duration) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        if signature != encode(self.sign(signed)) {
            return None;
        }
        let claims = read(token)?;
        let (now, leeway) = (seconds(now), leeway.as_secs());
        let in_time = now < claims.exp + leeway && claims.nbf <= now + leeway;
        (in_time && claims.serial() >= self.expired_below).then_some(claims)
    }

    /// As long as a signature by a key of 2048 bits.
    fn sign(&self, signed: &str) -> Vec<u8> {
        let block = |index| Digest::of(&[&self.key[..], &[index], signed.as_bytes()].concat());
        (0..8).flat_map(|index| *block(index).as_bytes()).collect()
    }
}

impl Claims {
    pub(super) fn serial(&self) -> u64 {
        self.jti.parse().unwrap_or(0)
    }

    /// Whether it allows `action` anywhere in `project`: a token is good for the whole
    /// project of each repository it names.
    pub(super) fn allows(&self, action: &str, project: &str) -> bool {
        let grants = self.access.iter().filter(|grant| project_of(&grant.name) == project);
        grants.flat_map(|grant| &grant.actions).any(|allowed| allowed == action || allowed == "*")
    }
}

/// What a token states, true or not.
pub(super) fn read(token: &str) -> Option<Claims> {
    let claims = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The one service that Harbor makes tokens for.
pub(super) const SERVICE: &str = "harbor-registry";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_from_its_issue_to_its_end_and_a_leeway_around() {
        let mut tokens = Tokens::new();
        let from = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let token = tokens.issue("alice", Vec::new(), Life { from, life: Duration::from_secs(1800) });
        let leeway = Duration::from_secs(60);
        let good = |now| tokens.verify(&token, now, leeway).is_some();
        assert!(good(from - leeway));
        assert!(!good(from - leeway - Duration::from_secs(1)));
        assert!(good(from + Duration::from_secs(1859)));
        assert!(!good(from + Duration::from_secs(1860)));
    }

    #[test]
    fn a_token_that_was_changed_is_nobodys() {
        let mut tokens = Tokens::new();
        let from = SystemTime::now();
        let token = tokens.issue("alice", Vec::new(), Life { from, life: Duration::from_secs(60) });
        let [header, claims, signature]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(signature.len(), 342, "256 bytes, as RS256 has");
        let forged = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let forged = encode(forged.replace("alice", "admin"));
        let verify = |token: &str| tokens.verify(token, from, Duration::ZERO);
        assert_eq!(verify(&token).unwrap().sub, "alice");
        assert_eq!(verify(&format!("{header}.{forged}.{signature}")), None);
        assert_eq!(Tokens::new().verify(&token, from, Duration::ZERO), None, "another core's key");
    }
}
