//! `Www-Authenticate`: where a registry says tokens come from (RFC 9110 §11.6.1), and how the
//! doors say it anew.
//!
//! Several challenges share one comma-separated header with the parameters of each, so that only
//! what follows a word tells what it was: `=` and a value make it a parameter, anything else a scheme.
//! What does not parse ends the reading; what was read before it counts.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use flotilla_proto::RepositoryName;
use http::Uri;
use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

/// Where to trade a credential for a token (distribution spec, "Token Authentication").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BearerChallenge {
    /// The token service.
    pub realm: Uri,
    /// The name that the token service knows the registry by.
    pub service: Option<String>,
    /// What the token must allow, where the registry says so.
    pub scope: Option<String>,
}

impl BearerChallenge {
    /// The first usable `Bearer` challenge; an empty header, as Harbor sends, has none.
    pub fn find(headers: &HeaderMap) -> Option<Self> {
        Challenge::all(headers).filter(Challenge::is_bearer).filter_map(|it| Self::of(&it)).next()
    }

    fn of(challenge: &Challenge) -> Option<Self> {
        let realm: Uri = challenge.parameter("realm")?.parse().ok()?;
        let is_http = matches!(realm.scheme_str(), Some("http" | "https"));
        let said = |name| challenge.parameter(name).filter(|value| !value.is_empty()).map(ToOwned::to_owned);
        let (service, scope) = (said("service"), said("scope"));
        (is_http && realm.host().is_some()).then_some(Self { realm, service, scope })
    }

    /// Where to ask for a token that lets read `repository`.
    pub fn pull_uri(&self, repository: &RepositoryName) -> Option<Uri> {
        self.scope_uri(&format!("repository:{}:pull", repository.as_str()))
    }

    /// Where to ask for a token that allows `scope`.
    pub fn scope_uri(&self, scope: &str) -> Option<Uri> {
        let mut query = String::new();
        append(&mut query, "scope", scope);
        self.uri(&query)
    }

    /// The token service, asked with its own name of the registry and `wishes`, which are a query's.
    pub fn uri(&self, wishes: &str) -> Option<Uri> {
        let mut query = self.realm.query().map(ToOwned::to_owned).unwrap_or_default();
        if let Some(service) = &self.service {
            append(&mut query, "service", service);
        }
        if !wishes.is_empty() {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(wishes);
        }
        let mut parts = self.realm.clone().into_parts();
        parts.path_and_query = Some(format!("{}?{query}", self.realm.path()).parse().ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// One challenge, whatever its scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Those of an answer, in order.
    pub fn all(headers: &HeaderMap) -> impl Iterator<Item = Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().flat_map(|value| challenges(&text(value)))
    }

    /// Whether it asks for a token.
    pub fn is_bearer(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("bearer")
    }

    /// Whether it asks for a user and a password.
    pub fn is_basic(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("basic")
    }

    /// Changes the parameter `name`, if it is there.
    pub fn map(&mut self, name: &str, change: impl FnOnce(&str) -> String) {
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

/// A realm is free text, and people write it in their own language (`obs-text`, RFC 9110 §5.5): what is
/// no UTF-8 in it must not hide the challenge.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

fn append(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    write!(query, "{name}=").expect("a string takes everything");
    for byte in value.bytes() {
        // RFC 3986 §3.4 lets a query hold `:`, `/` and `@` as they are; registries' logs stay readable.
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'@' => {
                query.push(char::from(byte));
            }
            _ => write!(query, "%{byte:02X}").expect("a string takes everything"),
        }
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

    #[test]
    fn a_token_is_asked_for_with_service_and_scope() {
        let challenge =
            find(&[r#"Bearer realm="https://auth.test/token?x=1",service="my registry&co""#]).unwrap();
        assert_eq!(
            challenge.pull_uri(&"a/b".parse().unwrap()).unwrap(),
            "https://auth.test/token?x=1&service=my%20registry%26co&scope=repository:a/b:pull"
        );
        assert_eq!(
            challenge.scope_uri("repository:a:pull,push repository:b:pull").unwrap(),
            "https://auth.test/token?x=1&service=my%20registry%26co&scope=repository:a:pull%2Cpush%20repository:b:pull"
        );
    }

    #[test]
    fn the_token_service_of_every_registry_is_found() {
        for (registry, value, asked) in [
            (
                "Harbor",
                r#"Bearer realm="https://h.test/service/token",service="harbor-registry",scope="repository:a/b:pull""#,
                "https://h.test/service/token?service=harbor-registry&scope=repository:a/b:pull",
            ),
            (
                "Harbor, after a bad credential",
                r#"Bearer realm="https://h.test/service/token",service="",scope="""#,
                "https://h.test/service/token?scope=repository:a/b:pull",
            ),
            (
                "distribution",
                r#"Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull",error="invalid_token""#,
                "https://auth.test/token?service=registry.test&scope=repository:a/b:pull",
            ),
            (
                "Docker Hub",
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#,
                "https://auth.docker.io/token?service=registry.docker.io&scope=repository:a/b:pull",
            ),
            (
                "GHCR",
                r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull""#,
                "https://ghcr.io/token?service=ghcr.io&scope=repository:a/b:pull",
            ),
            (
                "ECR Public",
                r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
                "https://public.ecr.aws/token/?service=public.ecr.aws&scope=repository:a/b:pull",
            ),
            (
                "GitLab",
                r#"Bearer realm="https://gitlab.test/jwt/auth",service="container_registry",scope="repository:a/b:pull",error="invalid_token""#,
                "https://gitlab.test/jwt/auth?service=container_registry&scope=repository:a/b:pull",
            ),
            (
                "Quay",
                r#"Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:a/b:pull""#,
                "https://quay.io/v2/auth?service=quay.io&scope=repository:a/b:pull",
            ),
            (
                "zot",
                r#"bearer realm="https://auth.test/auth/token",service="zot",scope="repository:a/b:pull""#,
                "https://auth.test/auth/token?service=zot&scope=repository:a/b:pull",
            ),
            (
                "a realm that holds a query and says no service",
                r#"Bearer realm="https://auth.test/token?account=a%20b",scope=plain"#,
                "https://auth.test/token?account=a%20b&scope=repository:a/b:pull",
            ),
        ] {
            let challenge = find(&[value]).unwrap_or_else(|| panic!("{registry}"));
            assert_eq!(challenge.pull_uri(&"a/b".parse().unwrap()).unwrap(), asked, "{registry}");
        }
    }

    #[test]
    fn letters_of_any_language_in_a_realm_hide_no_challenge() {
        let value =
            HeaderValue::from_bytes(b"Basic realm=\"Zugang f\xfcr alle\", Bearer realm=\"https://h.test/t\"");
        let headers = [(WWW_AUTHENTICATE, value.unwrap())].into_iter().collect();
        assert_eq!(BearerChallenge::find(&headers).unwrap().realm, "https://h.test/t");
    }

    #[test]
    fn a_registry_that_knows_no_tokens_asks_for_a_password() {
        for (registry, value) in [
            ("Harbor", r#"Basic realm="harbor""#),
            (
                "ECR",
                r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#,
            ),
            ("zot", r#"Basic realm="Authorization Required""#),
        ] {
            let headers = [(WWW_AUTHENTICATE, value.parse().unwrap())].into_iter().collect();
            let challenges: Vec<Challenge> = Challenge::all(&headers).collect();
            assert!(matches!(&challenges[..], [only] if only.is_basic()), "{registry}");
        }
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
