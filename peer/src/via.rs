//! By what name this cluster knows its own requests to registries (RFC 9110 §7.6.3): a door that is
//! asked by one of them was taken for the registry. Another cluster's door may well be the registry.

use flotilla_proto::Digest;
use http::header::{self, HeaderMap, HeaderValue};

/// A cluster's pseudonym in `Via`.
#[derive(Debug, Clone)]
pub struct Pseudonym(HeaderValue);

impl Pseudonym {
    /// That of the cluster whose CA this is, as DER.
    ///
    /// # Panics
    /// Never: a digest is a legal header.
    pub fn of_cluster(ca: &[u8]) -> Self {
        let received_by = format!("1.1 flotilla-{}", Digest::of(ca).short());
        Self(HeaderValue::try_from(received_by).expect("a digest is a legal header"))
    }

    /// What a request to a registry carries.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Whether a request has been through a seed of this cluster already.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let name = self.name();
        let values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|hop| hop.trim().ends_with(name))
    }

    /// Without the version of HTTP, which says nothing of who it was.
    fn name(&self) -> &str {
        let text = self.0.to_str().expect("it was made of text");
        text.split_once(' ').map_or(text, |(_, name)| name)
    }
}
