//! Names of images as people write them, and the content of one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use flotilla_proto::{Digest, ParseDigestError, ParseNameError, RegistryHost, RepositoryName};

/// `HOST/REPOSITORY[:TAG][@DIGEST]`; where there is a digest, the tag means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageReference {
    /// The registry in front.
    pub(crate) host: RegistryHost,
    /// The repository.
    pub(crate) repository: RepositoryName,
    /// What to ask the registry for.
    pub(crate) reference: Reference,
}

/// A tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// May move.
    Tag(String),
    /// Names one content.
    Digest(Digest),
}

/// An image's blobs, config and layers, each with its size. Two layers that are the same
/// content are one blob.
pub(crate) type Blobs = BTreeMap<Digest, u64>;

impl FromStr for ImageReference {
    type Err = ParseImageError;

    fn from_str(text: &str) -> Result<Self, ParseImageError> {
        let (host, rest) = text.split_once('/').ok_or(ParseImageError::NoHost)?;
        // As every client tells a registry from a namespace.
        if !host.contains(['.', ':']) && host != "localhost" {
            return Err(ParseImageError::NoHost);
        }
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (rest, None),
        };
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        if !is_tag(tag) {
            return Err(ParseImageError::Tag);
        }
        let reference = digest.map_or_else(|| Reference::Tag(tag.to_owned()), Reference::Digest);
        let host: RegistryHost = host.parse()?;
        Ok(Self { repository: host.repository(repository).parse()?, host, reference })
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution spec, "Pulling manifests").
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, repository, reference } = self;
        match reference {
            Reference::Tag(tag) => write!(f, "{host}/{repository}:{tag}"),
            Reference::Digest(digest) => write!(f, "{host}/{repository}@{digest}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Why a text names no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseImageError {
    /// A short name.
    #[error("an image reads HOST/REPOSITORY[:TAG|@DIGEST], with the registry's host in front")]
    NoHost,
    /// The host or the repository.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// The tag.
    #[error("a tag has at most 128 letters, digits, '_', '.' and '-', and starts with neither '.' nor '-'")]
    Tag,
    /// The digest.
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_reads_back_as_it_was_written() {
        let digest = Digest::of(b"");
        for text in ["reg.test/app:v1", "reg.test:5000/a/b/c:latest", &format!("localhost/app@{digest}")] {
            assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), text);
        }
        let tagged: ImageReference = format!("reg.test/app:v1@{digest}").parse().unwrap();
        assert_eq!(tagged.reference, Reference::Digest(digest));
        assert_eq!("reg.test/app".parse::<ImageReference>().unwrap().to_string(), "reg.test/app:latest");
    }

    #[test]
    fn docker_hubs_own_images_have_one_component() {
        for text in
            ["docker.io/alpine", "index.docker.io/alpine:latest", "registry-1.docker.io/library/alpine"]
        {
            assert_eq!(
                text.parse::<ImageReference>().unwrap().to_string(),
                "docker.io/library/alpine:latest"
            );
        }
        assert_eq!("reg.test/alpine".parse::<ImageReference>().unwrap().repository.as_str(), "alpine");
    }

    #[test]
    fn what_names_no_image_says_why() {
        let parse = |text: &str| text.parse::<ImageReference>().unwrap_err();
        assert_eq!(parse("app"), ParseImageError::NoHost);
        assert_eq!(parse("library/app:v1"), ParseImageError::NoHost);
        assert_eq!(parse("reg.test/App"), ParseImageError::Name(ParseNameError::Repository));
        assert_eq!(parse("reg.test/app:"), ParseImageError::Tag);
        assert_eq!(parse("reg.test/app:-v"), ParseImageError::Tag);
        assert_eq!(parse("reg.test/app@sha256:0"), ParseImageError::Digest(ParseDigestError::Malformed));
    }
}
