//! A message header on a QUIC stream: the message behind its length as a varint.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

/// The longest header that is read. A forwarded HTTP request with the largest headers that
/// clients send (8 KiB) and a refusal's body (64 KiB) fit well within.
pub const MAX_HEADER_LEN: usize = 128 << 10;

/// The message behind its length.
pub fn encode(message: &impl Message) -> Bytes {
    message.encode_length_delimited_to_vec().into()
}

/// Takes one message off the front of `buffer`. `None` while more bytes are needed; what is
/// behind the message stays in `buffer`.
///
/// # Errors
/// When the header is longer than [`MAX_HEADER_LEN`] or is no such message.
pub fn decode<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>, FrameError> {
    let mut peek = &buffer[..];
    let len = match prost::decode_length_delimiter(&mut peek) {
        Ok(len) => len,
        Err(_) if buffer.len() < MAX_VARINT_LEN => return Ok(None),
        Err(_) => return Err(FrameError::Malformed),
    };
    if len > MAX_HEADER_LEN {
        return Err(FrameError::TooLong);
    }
    let prefix_len = buffer.len() - peek.len();
    if peek.len() < len {
        return Ok(None);
    }
    buffer.advance(prefix_len);
    let message = buffer.split_to(len).freeze();
    M::decode(message).map(Some).map_err(|_| FrameError::Malformed)
}

/// Protocol buffers encoding, "Base 128 Varints".
const MAX_VARINT_LEN: usize = 10;

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_HEADER_LEN`].
    #[error("a message header is longer than {MAX_HEADER_LEN} bytes")]
    TooLong,
    /// Not a message of this kind.
    #[error("a message header is malformed")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::peer::{PieceRun, Request, request};
    use proptest::prelude::*;

    fn request() -> Request {
        let run = PieceRun { digest: Bytes::from_static(&[7; 32]), first: 3, count: 2, picked: false };
        Request { protocol: 1, kind: Some(request::Kind::Pieces(run)) }
    }

    #[test]
    fn a_header_is_read_once_its_last_byte_is_there() {
        let encoded = encode(&request());
        let mut buffer = BytesMut::new();
        for (index, byte) in encoded.iter().enumerate() {
            assert_eq!(decode::<Request>(&mut buffer), Ok(None), "after {index} bytes");
            buffer.extend_from_slice(&[*byte]);
        }
        buffer.extend_from_slice(b"body");
        assert_eq!(decode(&mut buffer), Ok(Some(request())));
        assert_eq!(&buffer[..], b"body");
    }

    #[test]
    fn a_header_that_claims_to_be_huge_is_refused_before_it_arrives() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0x0f][..]);
        assert_eq!(decode::<Request>(&mut buffer), Err(FrameError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let _ = decode::<Request>(&mut buffer);
        }
    }
}
