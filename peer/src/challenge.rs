//! `Www-Authenticate`: where a registry says tokens come from (RFC 9110 §11.6.1), and how the
//! doors say it anew.
//!
//! Several challenges share one comma-separated header with the parameters of each, so that only
//! what follows a word tells what it was: `=` and a value make it a parameter, anything else a scheme.
//! What does not parse ends the reading; what was read before it counts.

use std::fmt;

use http::Uri;
use http::header::{HeaderMap, WWW_AUTHENTICATE};

/// Where to trade a credential for a token (distribution spec, "Token Authentication").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BearerChallenge {
    /// The token service.
    pub(crate) realm: Uri,
    /// The name that the token service knows the registry by.
    pub(crate) service: Option<String>,
}

impl BearerChallenge {
    /// The first usable `Bearer` challenge; an empty header, as Harbor sends, has none.
    pub(crate) fn find(headers: &HeaderMap) -> Option<Self> {
        Challenge::all(headers).filter(Challenge::is_bearer).filter_map(|it| Self::of(&it)).next()
    }

    fn of(challenge: &Challenge) -> Option<Self> {
        let realm: Uri = challenge.parameter("realm")?.parse().ok()?;
        let is_http = matches!(realm.scheme_str(), Some("http" | "https"));
        let service = challenge.parameter("service").map(ToOwned::to_owned);
        (is_http && realm.host().is_some()).then_some(Self { realm, service })
    }
}

/// One challenge, whatever its scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Those of an answer, in order.
    pub(crate) fn all(headers: &HeaderMap) -> impl Iterator<Item = Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(challenges)
    }

    /// Whether it asks for a token.
    pub(crate) fn is_bearer(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("bearer")
    }

    /// Changes the parameter `name`, if it is there.
    pub(crate) fn map(&mut self, name: &str, change: impl FnOnce(&str) -> String) {
        let found = self.parameters.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = found {
            *value = change(value);
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scheme)?;
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            let value = value.replace('\\', r"\\").replace('"', r#"\""#);
            write!(f, "{}{name}=\"{value}\"", if index == 0 { " " } else { "," })?;
        }
        Ok(())
    }
}

fn challenges(header: &str) -> Vec<Challenge> {
    let mut rest = Scanner(header);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|c| c == ',' || is_space(c));
        let Some(word) = rest.token() else { return challenges };
        match (rest.parameter_value(), challenges.last_mut()) {
            (Some(value), Some(challenge)) => challenge.parameters.push((word.to_owned(), value)),
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() });
                rest.skip_token68();
            }
        }
    }
}

/// What is left of a header.
struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(skipped);
    }

    /// The longest run of characters that `wanted` accepts.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn token(&mut self) -> Option<&'a str> {
        Some(self.take(is_token)).filter(|token| !token.is_empty())
    }

    /// `= value`, or nothing taken.
    fn parameter_value(&mut self) -> Option<String> {
        let mut ahead = Scanner(self.0);
        ahead.skip(is_space);
        ahead.0 = ahead.0.strip_prefix('=')?;
        ahead.skip(is_space);
        let value = match ahead.0.strip_prefix('"') {
            Some(quoted) => {
                ahead.0 = quoted;
                ahead.quoted()?
            }
            None => ahead.token()?.to_owned(),
        };
        self.0 = ahead.0;
        Some(value)
    }

    /// Up to the closing quote, the opening one being taken already.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.0.char_indices();
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &self.0[index + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                _ => value.push(character),
            }
        }
        None
    }

    /// The one opaque word that may follow a scheme in place of parameters.
    fn skip_token68(&mut self) {
        let mut ahead = Scanner(self.0);
        ahead.skip(is_space);
        let word = ahead.take(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        ahead.skip(|c| c == '=');
        ahead.skip(is_space);
        let stands_alone = ahead.0.is_empty() || ahead.0.starts_with(',');
        if !word.is_empty() && stands_alone {
            self.0 = ahead.0;
        }
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// RFC 9110 §5.6.2
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(values: &[&str]) -> Option<BearerChallenge> {
        let headers = values.iter().map(|value| (WWW_AUTHENTICATE, value.parse().unwrap()));
        BearerChallenge::find(&headers.collect())
    }

    #[test]
    fn harbors_challenge_names_its_token_service() {
        let value = r#"Bearer realm="https://h.test/service/token",service="harbor-registry",scope="repository:a/b:pull""#;
        let found = find(&[value]).unwrap();
        assert_eq!(found.realm, "https://h.test/service/token");
        assert_eq!(found.service.as_deref(), Some("harbor-registry"));
    }

    #[test]
    fn a_bearer_challenge_is_found_among_others() {
        let bearer = r#"bearer realm="https://h.test/t?a=1,2" , service=plain"#;
        for values in [
            &[&format!(r#"Basic realm="a, \"b\" = c", {bearer}"#)[..]][..],
            &[&format!("Negotiate abc+/def==, {bearer}")],
            &[&format!("Negotiate, {bearer}, Digest qop=auth")],
            &[r#"Basic realm="harbor""#, bearer],
            &["", &format!(",, {bearer}")],
        ] {
            let found = find(values).unwrap_or_else(|| panic!("{values:?}"));
            assert_eq!(found.realm, "https://h.test/t?a=1,2");
            assert_eq!(found.service.as_deref(), Some("plain"));
        }
    }

    #[test]
    fn what_names_no_token_service_is_none() {
        for value in [
            "",
            "Basic realm=\"harbor\"",
            "Bearer",
            "Bearer realm=\"/t\"",
            "Bearer realm=\"ftp://h/t\"",
            "=,\"",
            "Bearer realm=\"https://unterminated",
            "realm=\"https://h.test/t\"",
        ] {
            assert_eq!(find(&[value]), None, "{value}");
        }
    }

    #[test]
    fn a_challenge_is_said_anew_with_another_realm() {
        let value = r#"Bearer realm="https://h.test/t",service="a \"b\"",scope="repository:a:pull""#;
        let headers = [(WWW_AUTHENTICATE, value.parse().unwrap())].into_iter().collect();
        let mut challenge = Challenge::all(&headers).next().unwrap();
        assert_eq!(challenge.to_string(), value);
        challenge.map("realm", |_| "http://127.0.0.1:4001/t".to_owned());
        challenge.map("missing", |_| unreachable!());
        assert_eq!(challenge.to_string(), value.replace("https://h.test/t", "http://127.0.0.1:4001/t"));
    }

    fn rendered(challenge: &Challenge, space: &str) -> String {
        let escape = |text: &str| text.replace('\\', r"\\").replace('"', r#"\""#);
        let parameters: Vec<String> = challenge
            .parameters
            .iter()
            .map(|(name, value)| format!("{name}{space}={space}\"{}\"", escape(value)))
            .collect();
        format!("{} {}", challenge.scheme, parameters.join(&format!("{space},")))
    }

    prop_compose! {
        fn any_challenge()(
            scheme in "[A-Za-z][A-Za-z0-9-]{0,8}",
            parameters in proptest::collection::vec(("[a-z_]{1,8}", "[ -~]{0,20}"), 0..4),
        ) -> Challenge {
            Challenge { scheme, parameters }
        }
    }

    proptest! {
        #[test]
        fn challenges_read_back_as_they_were_written(
            written in proptest::collection::vec(any_challenge(), 0..4),
            space in "[ \t]{0,2}",
        ) {
            let texts: Vec<String> = written.iter().map(|it| rendered(it, &space)).collect();
            prop_assert_eq!(&challenges(&texts.join(", ")), &written);
            let texts: Vec<String> = written.iter().map(ToString::to_string).collect();
            prop_assert_eq!(challenges(&texts.join(", ")), written);
        }

        #[test]
        fn no_header_makes_the_parser_fail_or_spin(header in "\\PC{0,80}|[ -~]{0,80}|[a=,\" \\\\]{0,40}") {
            challenges(&header);
        }
    }
}
