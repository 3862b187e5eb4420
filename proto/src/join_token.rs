//! The text an operator copies to a node so that its daemon may join.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;

use crate::wire::manager::JoinToken;

/// A join token as text: it names the manager, pins its CA, and carries the secret.
///
/// `Debug` does not show it.
#[derive(Clone)]
pub struct JoinTokenText(JoinToken);

impl JoinTokenText {
    /// What the token holds.
    pub fn token(&self) -> &JoinToken {
        &self.0
    }
}

impl From<JoinToken> for JoinTokenText {
    fn from(token: JoinToken) -> Self {
        Self(token)
    }
}

impl fmt::Display for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0.encode_to_vec()))
    }
}

impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinTokenText({}, {})", self.0.region, self.0.role)
    }
}

impl FromStr for JoinTokenText {
    type Err = ParseJoinTokenError;

    fn from_str(text: &str) -> Result<Self, ParseJoinTokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(ParseJoinTokenError::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| ParseJoinTokenError::Damaged)?;
        let token = JoinToken::decode(&bytes[..]).map_err(|_| ParseJoinTokenError::Damaged)?;
        if token.manager.is_empty() || token.ca_der.is_empty() || token.secret.is_empty() {
            return Err(ParseJoinTokenError::Damaged);
        }
        Ok(Self(token))
    }
}

/// Names the format, and makes a leaked token easy to search for.
const PREFIX: &str = "flt1_";

/// Why a text is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseJoinTokenError {
    /// It does not start as a token does.
    #[error("a join token starts with {PREFIX}; `flotilla token create` makes one")]
    Prefix,
    /// It starts as a token does, but was cut or changed.
    #[error("the join token is damaged; copy it again, whole")]
    Damaged,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinTokenText {
        JoinTokenText(JoinToken {
            manager: "https://10.0.0.1:4000".into(),
            ca_der: vec![1, 2, 3].into(),
            secret: "s3cret".into(),
            region: "eu".into(),
            role: "peer".into(),
        })
    }

    #[test]
    fn a_token_survives_being_copied() {
        let text = format!(" {}\n", token());
        assert_eq!(text.parse::<JoinTokenText>().unwrap().token(), token().token());
    }

    #[test]
    fn a_token_that_was_cut_is_refused() {
        let text = token().to_string();
        assert_eq!(text[..20].parse::<JoinTokenText>().unwrap_err(), ParseJoinTokenError::Damaged);
        assert_eq!("abc".parse::<JoinTokenText>().unwrap_err(), ParseJoinTokenError::Prefix);
    }

    #[test]
    fn a_token_never_prints_its_secret() {
        assert!(!format!("{:?} {:?}", token(), token().token()).contains("s3cret"));
    }
}
