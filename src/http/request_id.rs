//! The id of a request in its response, its log lines and its stored lines.

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use uuid::{NoContext, Timestamp, Uuid};

use crate::headers::{X_AWS_SQSD_MSGID, X_REQUEST_ID};

/// A longer id is replaced, because every stored line repeats it.
const MAX_BYTES: usize = 128;
/// The length of a generated id.
const ID_BYTES: usize = 36;

/// The id of an SQS message, the client's `X-Request-Id`, or a generated one.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's id if it needs no escaping in a header, a log line and a JSON string; else a new one. That of a message takes
    /// precedence: it is the same each time that the message is delivered.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = [X_AWS_SQSD_MSGID, X_REQUEST_ID].into_iter().filter_map(|name| headers.get(name));
        // A copy, because a clone keeps the whole read buffer of the headers.
        let copy = given.map(HeaderValue::as_bytes).find(|id| is_plain(id)).map(HeaderValue::from_bytes);
        copy.and_then(Result::ok).map_or_else(Self::new, Self)
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

    #[test]
    fn the_id_of_a_message_takes_precedence_unless_it_needs_escaping() {
        for (message, expected) in [("m-1", "m-1"), ("m 1", "r-1"), ("", "r-1")] {
            let given = [(X_REQUEST_ID, "r-1"), (X_AWS_SQSD_MSGID, message)];
            let headers = given.map(|(name, value)| (name, HeaderValue::from_static(value)));
            assert_eq!(RequestId::of(&HeaderMap::from_iter(headers)).as_str(), expected);
        }
    }
}
