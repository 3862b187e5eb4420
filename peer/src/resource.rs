//! What the paths of a registry mean (distribution spec, "Endpoints").

use flotilla_proto::RepositoryName;
use http::Method;
use percent_encoding::percent_decode_str;

/// What a registry's path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    /// A manifest, and the tag or digest that it is asked for by.
    Manifest(RepositoryName, String),
    /// A blob; the digest as it is written.
    Blob(RepositoryName, String),
    /// Anything else.
    Other,
}

impl Resource {
    /// Reads a registry's path (distribution spec, "Endpoints"). What stands behind `/v2/` may be encoded
    /// (RFC 3986 §6.2.2.2), where it comes to the characters of names, tags and digests.
    pub(crate) fn of(path: &str) -> Self {
        let Some(rest) = path.strip_prefix("/v2/") else { return Self::Other };
        let is_encoded = rest.contains('%');
        let Ok(rest) = percent_decode_str(rest).decode_utf8() else { return Self::Other };
        if is_encoded && !rest.bytes().all(is_plain) {
            return Self::Other;
        }
        for (middle, blob) in [("/manifests/", false), ("/blobs/", true)] {
            let Some((name, reference)) = rest.rsplit_once(middle) else { continue };
            let Ok(repository) = name.parse::<RepositoryName>() else { continue };
            if reference.is_empty() || reference.contains('/') {
                continue;
            }
            let kind = if blob { Self::Blob } else { Self::Manifest };
            return kind(repository, reference.to_owned());
        }
        Self::Other
    }

    /// The path as everybody writes it, if it is a manifest's or a blob's: what is judged is what is asked.
    pub(crate) fn path(&self) -> Option<String> {
        match self {
            Self::Manifest(repository, reference) => Some(format!("/v2/{repository}/manifests/{reference}")),
            Self::Blob(repository, digest) => Some(format!("/v2/{repository}/blobs/{digest}")),
            Self::Other => None,
        }
    }
}

/// Of the names, tags and digests of the distribution spec.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-:+=".contains(&byte)
}

/// Whether a client waits with little patience for this answer's first header: a manifest's, a
/// blob's, a token's or that of `/v2/` (docs/design.md §6). A push or a listing may take its time.
pub(crate) fn is_prompt(method: &Method, path: &str) -> bool {
    let is_pull = match Resource::of(path) {
        Resource::Manifest(..) | Resource::Blob(..) => true,
        Resource::Other => path == "/v2/" || !path.starts_with("/v2/"),
    };
    is_pull && matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_of_a_registry_are_told_apart() {
        let app: RepositoryName = "app/web".parse().unwrap();
        let encoded = Resource::of("/v2/app%2Fweb/manifests/v%31");
        assert_eq!(encoded.path().unwrap(), "/v2/app/web/manifests/v1");
        assert_eq!(
            Resource::of("/v2/app%2Fw%65b/blobs/sha256%3A0"),
            Resource::Blob(app.clone(), "sha256:0".to_owned())
        );
        assert_eq!(
            Resource::of("/v2/app/web/manifests/v1"),
            Resource::Manifest(app.clone(), "v1".to_owned())
        );
        assert_eq!(Resource::of("/v2/app/web/blobs/sha256:0"), Resource::Blob(app, "sha256:0".to_owned()));
        for other in [
            "/v2/",
            "/v2/app/tags/list",
            "/v2/app/blobs/uploads/",
            "/v2/app/blobs/uploads/1",
            "/v2/A/manifests/v1",
            "/v2/app/manifests/a%2Fb",
            "/v2/app/manifests/%FF",
            "/v2/app/manifests/v1%3Fx",
            "/v2%2Fapp%2Fmanifests%2Fv1",
            "/%762/app/manifests/v1",
        ] {
            assert_eq!(Resource::of(other), Resource::Other, "{other}");
        }
    }

    #[test]
    fn whoever_pulls_waits_little_and_whoever_pushes_much() {
        for path in ["/v2/", "/v2/a/manifests/v1", "/v2/a/blobs/sha256:0", "/service/token"] {
            assert!(is_prompt(&Method::GET, path) && is_prompt(&Method::HEAD, path), "{path}");
            assert!(!is_prompt(&Method::PUT, path));
        }
        for path in ["/v2/a/tags/list", "/v2/_catalog", "/v2/a/blobs/uploads/1"] {
            assert!(!is_prompt(&Method::GET, path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_is_read_whatever_it_holds(path in "(/v2/)?[a-z/:.A-Z0-9_-]{0,60}") {
            if let Resource::Blob(repository, digest) = Resource::of(&path) {
                prop_assert_eq!(format!("/v2/{repository}/blobs/{digest}"), path);
            }
        }
    }
}
