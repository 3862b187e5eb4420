//! What comes encoded though `identity` was asked for: front ends compress on their own account, and
//! labels lie in both directions (RFC 9110 §8.4).
//!
//! What a seed must read it decodes; where a digest is known, that decides, and never a label.

use std::io;
use std::pin::Pin;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::Response;
use http::header::{self, HeaderMap};
use http::response::Parts;
use http_body_util::{BodyDataStream, BodyExt as _, StreamBody};
use hyper::body::Incoming;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::BodyStream;

/// A content coding that is decoded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    /// What HTTP calls `deflate`: the zlib format (RFC 9110 §8.4.1.2).
    Deflate,
    Brotli,
    Zstd,
}

/// The codings of a body, in the order in which they were applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Codings(Vec<Coding>);

impl Codings {
    /// What the headers say; `None` if there is a coding that is not decoded here.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::CONTENT_ENCODING).iter();
        let texts: Option<Vec<&str>> = values.map(|value| value.to_str().ok()).collect();
        let names = texts?.into_iter().flat_map(|text| text.split(','));
        let codings: Option<Vec<Option<Coding>>> = names.map(coding).collect();
        Some(Self(codings?.into_iter().flatten().collect()))
    }

    /// gzip alone.
    pub(super) fn gzip() -> Self {
        Self(vec![Coding::Gzip])
    }

    /// Whether the body is itself.
    pub(super) fn is_identity(&self) -> bool {
        self.0.is_empty()
    }

    /// The body as it was before it was encoded. One that is not what its label says breaks.
    pub(super) fn decode(&self, body: BodyStream) -> BodyStream {
        self.0.iter().rev().fold(body, |body, coding| decoded(body, *coding))
    }

    /// As [`Self::decode`], of bytes that are there; `None` if they are not what the label says, or
    /// longer than `limit`.
    pub(super) async fn decode_whole(&self, bytes: Bytes, limit: usize) -> Option<Bytes> {
        crate::body::read_whole(self.decode(crate::body::full(bytes)), limit).await
    }
}

/// The first `limit` bytes of an answer as they were before they were encoded; as they came, if they are
/// not what the label says.
pub async fn plain_prefix(response: Response<Incoming>, limit: usize) -> (Parts, Bytes) {
    let (mut head, body) = response.into_parts();
    let raw = super::body::read_prefix(body, limit).await;
    let codings = Codings::of(&head.headers);
    head.headers.remove(header::CONTENT_LENGTH);
    let plain = match codings {
        Some(codings) if !codings.is_identity() => codings.decode_whole(raw.clone(), limit).await,
        Some(_) | None => None,
    };
    if plain.is_some() {
        head.headers.remove(header::CONTENT_ENCODING);
    }
    (head, plain.unwrap_or(raw))
}

/// One member of the list; `Some(None)` for one that means nothing.
fn coding(name: &str) -> Option<Option<Coding>> {
    match &name.trim().to_ascii_lowercase()[..] {
        "" | "identity" => Some(None),
        "gzip" | "x-gzip" => Some(Some(Coding::Gzip)),
        "deflate" => Some(Some(Coding::Deflate)),
        "br" => Some(Some(Coding::Brotli)),
        "zstd" => Some(Some(Coding::Zstd)),
        _ => None,
    }
}

fn decoded(body: BodyStream, coding: Coding) -> BodyStream {
    let encoded = StreamReader::new(TryStreamExt::map_err(BodyDataStream::new(body), io::Error::other));
    let reader: Pin<Box<dyn AsyncRead + Send>> = match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(encoded);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        Coding::Deflate => Box::pin(ZlibDecoder::new(encoded)),
        Coding::Brotli => Box::pin(BrotliDecoder::new(encoded)),
        Coding::Zstd => {
            let mut decoder = ZstdDecoder::new(encoded);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
    };
    let frames =
        ReaderStream::with_capacity(reader, CHUNK).map_ok(http_body::Frame::data).map_err(Into::into);
    StreamBody::new(frames).boxed_unsync()
}

const CHUNK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
    use http::HeaderValue;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn codings(values: &[&'static str]) -> Option<Codings> {
        let headers = values.iter().map(|value| (header::CONTENT_ENCODING, HeaderValue::from_static(value)));
        Codings::of(&headers.collect())
    }

    async fn encode(bytes: &[u8], coding: Coding) -> Bytes {
        macro_rules! through {
            ($encoder:ident) => {{
                let mut encoder = $encoder::new(Vec::new());
                encoder.write_all(bytes).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner().into()
            }};
        }
        match coding {
            Coding::Gzip => through!(GzipEncoder),
            Coding::Deflate => through!(ZlibEncoder),
            Coding::Brotli => through!(BrotliEncoder),
            Coding::Zstd => through!(ZstdEncoder),
        }
    }

    #[test]
    fn a_label_is_a_list_and_what_is_not_known_is_said_so() {
        assert!(codings(&[]).unwrap().is_identity() && codings(&["identity", " "]).unwrap().is_identity());
        assert_eq!(codings(&["GZIP, x-gzip", "br"]).unwrap().0, [Coding::Gzip, Coding::Gzip, Coding::Brotli]);
        assert_eq!(codings(&["compress"]), None);
    }

    #[tokio::test]
    async fn every_coding_is_undone_and_several_in_turn() {
        let text = "manifest ".repeat(30_000);
        for (name, coding) in [
            ("gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("br", Coding::Brotli),
            ("zstd", Coding::Zstd),
        ] {
            let encoded = encode(text.as_bytes(), coding).await;
            let label = codings(&[name]).unwrap();
            assert_eq!(label.decode_whole(encoded.clone(), text.len()).await.unwrap(), text, "{name}");
            assert_eq!(label.decode_whole(encoded.clone(), text.len() - 1).await, None, "{name} is bounded");
            assert_eq!(
                label.decode_whole(encoded.slice(..encoded.len() / 2), text.len()).await,
                None,
                "{name} is cut"
            );
            assert_eq!(label.decode_whole(Bytes::from_static(b"{}"), 9).await, None, "{name} is not there");
        }
        let twice = encode(&encode(text.as_bytes(), Coding::Gzip).await, Coding::Zstd).await;
        assert_eq!(codings(&["gzip, zstd"]).unwrap().decode_whole(twice, text.len()).await.unwrap(), text);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoding_fail_but_by_saying_so(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for name in ["gzip", "deflate", "br", "zstd"] {
                let decoded = runtime.block_on(codings(&[name]).unwrap().decode_whole(bytes.clone().into(), 1 << 20));
                prop_assert!(decoded.is_none_or(|decoded| decoded.len() <= 1 << 20));
            }
        }
    }
}
