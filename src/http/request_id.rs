//! The id that a request carries through answers, log lines and stored records.

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use uuid::Uuid;

use super::X_REQUEST_ID;

/// A longer id is replaced: it would be repeated in every stored line.
const MAX_BYTES: usize = 128;
/// Of an id that is made here.
const ID_BYTES: usize = 36;

/// The sender's `X-Request-Id`, or one made here.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The sender's id if it can stand in a header, a log line and a JSON string as it is; else a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(X_REQUEST_ID) {
            // A copy, and no clone: that would keep the whole read buffer in which the headers came.
            Some(given) if is_plain(given.as_bytes()) => {
                HeaderValue::from_bytes(given.as_bytes()).map_or_else(|_| Self::new(), Self)
            }
            _ => Self::new(),
        }
    }

    /// The id that [`of`](Self::of) found, in headers that it was put into.
    pub(super) fn found(headers: &HeaderMap) -> Self {
        headers.get(X_REQUEST_ID).map_or_else(Self::new, |id| Self(id.clone()))
    }

    /// A new id: a UUIDv7, so that ids sort by time.
    pub(super) fn new() -> Self {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut text);
        // Hexadecimal digits and hyphens make a header. Of bytes with an owner, a clone costs no allocation.
        let text = Bytes::from_owner(<[u8; ID_BYTES]>::try_from(text.as_bytes()).unwrap_or([b'-'; ID_BYTES]));
        Self(HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("-")))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("-")
    }
}

impl From<RequestId> for HeaderValue {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

fn is_plain(id: &[u8]) -> bool {
    (1..=MAX_BYTES).contains(&id.len()) && id.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &[u8]) -> String {
        let headers = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_bytes(id).unwrap())]);
        RequestId::of(&headers).as_str().to_owned()
    }

    #[test]
    fn an_id_that_can_stand_anywhere_is_taken_and_any_other_is_replaced() {
        assert_eq!(of(b"abc-123/x"), "abc-123/x");
        assert_eq!(of(&[b'x'; MAX_BYTES]), "x".repeat(MAX_BYTES));
        let long = [b'x'; MAX_BYTES + 1];
        for bad in [&b""[..], b"a b", b"a\"b", b"a\\b", b"\xc3\xa9", b"a\tb", &long] {
            assert_eq!(of(bad).len(), 36, "{bad:?}");
        }
        assert_ne!(RequestId::new().as_str(), RequestId::new().as_str());
    }
}
