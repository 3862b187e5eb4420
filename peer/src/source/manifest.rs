//! A manifest on its way: taken from whatever a front end wrapped it in, judged by its digest.

use bytes::{Bytes, BytesMut};
use flotilla_proto::Digest;
use http::HeaderValue;
use http::header::{self, HeaderMap};
use http_body_util::BodyExt as _;

use super::body::BodyStream;
use super::encoding::Codings;
use super::failure::{Causes, EndpointFailure};
use crate::grant::MAX_MANIFEST;

/// The whole of it, up to [`MAX_MANIFEST`].
pub(super) async fn read(mut body: BodyStream) -> Result<Bytes, EndpointFailure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| EndpointFailure::Cut(Causes::of(error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_MANIFEST {
            return Err(EndpointFailure::TooLong { expected: MAX_MANIFEST as u64 });
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// What of `raw` is the manifest, and the headers that say so. The digest that was asked for decides, or the one
/// that the registry names; only without either does the label.
pub(super) async fn plain(
    headers: &mut HeaderMap,
    raw: Bytes,
    reference: &str,
) -> Result<Bytes, EndpointFailure> {
    let codings = Codings::of(headers);
    let named = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
    let named: Option<Digest> = reference.parse().ok().or_else(|| named?.parse().ok());
    headers.remove(header::CONTENT_ENCODING);
    let is_right = |bytes: &Bytes| named.is_some_and(|named| Digest::of(bytes) == named);
    let bytes = if is_right(&raw) {
        raw
    } else {
        // Some encode and do not say so.
        let unsaid = || raw.starts_with(GZIP).then(Codings::gzip);
        let codings = codings.ok_or(EndpointFailure::Encoded)?;
        let codings =
            if codings.is_identity() { unsaid().filter(|_| named.is_some()) } else { Some(codings) };
        let decoded = match codings {
            Some(codings) => codings.decode_whole(raw.clone(), MAX_MANIFEST).await,
            None => None,
        };
        decoded.filter(|decoded| named.is_none() || is_right(decoded) || is_one(decoded)).unwrap_or(raw)
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    Ok(bytes)
}

/// Whether it is a manifest of any kind, rather than a page that something else shows (image spec, "Image
/// Manifest", "Image Index"; distribution's schema 1 and 2).
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let parsed: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(bytes).ok();
    parsed.is_some_and(|manifest| {
        let has = |name: &str| manifest.get(name).is_some_and(|value| !value.is_null());
        let lists = ["layers", "manifests", "blobs", "fsLayers", "config"].iter().any(|name| has(name));
        lists || has("schemaVersion") || has("artifactType")
    })
}

/// What every gzip member begins with (RFC 1952 §2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];
