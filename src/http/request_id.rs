//! The id of a request in its response, its log lines and its stored lines.

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use uuid::{NoContext, Timestamp, Uuid};

use crate::headers::X_REQUEST_ID;

/// A longer id is replaced, because every stored line repeats it.
const MAX_BYTES: usize = 128;
/// The length of a generated id.
const ID_BYTES: usize = 36;

/// The client's `X-Request-Id`, or a generated one.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's id if it needs no escaping in a header, a log line and a JSON string; else a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(X_REQUEST_ID) {
            // A copy, because a clone keeps the whole read buffer of the headers.
            Some(given) if is_plain(given.as_bytes()) => {
                HeaderValue::from_bytes(given.as_bytes()).map_or_else(|_| Self::new(), Self)
            }
            _ => Self::new(),
        }
    }

    /// The id that [`of`](Self::of) returned, from headers that it was inserted into.
    pub(super) fn inserted(headers: &HeaderMap) -> Self {
        headers.get(X_REQUEST_ID).map_or_else(Self::new, |id| Self(id.clone()))
    }

    /// A new id: a UUIDv7, so that ids sort by time. Without the counter that orders those of one millisecond, because all
    /// threads would share its lock.
    pub(super) fn new() -> Self {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v7(Timestamp::now(NoContext)).hyphenated().encode_lower(&mut text);
        // Hexadecimal digits and hyphens are a valid header. A clone of bytes with an owner does not allocate.
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
    fn an_id_that_needs_escaping_is_replaced() {
        assert_eq!(of(b"abc-123/x"), "abc-123/x");
        assert_eq!(of(&[b'x'; MAX_BYTES]), "x".repeat(MAX_BYTES));
        let long = [b'x'; MAX_BYTES + 1];
        for bad in [&b""[..], b"a b", b"a\"b", b"a\\b", b"\xc3\xa9", b"a\tb", &long] {
            assert_eq!(of(bad).len(), 36, "{bad:?}");
        }
        assert_ne!(RequestId::new().as_str(), RequestId::new().as_str());
    }
}
