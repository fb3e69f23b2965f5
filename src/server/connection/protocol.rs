//! The version of HTTP that a connection speaks, detected from its first bytes.

/// The connection preface of HTTP/2 (RFC 9113, 3.4). Until all of it has arrived, it may still be a request of HTTP/1.
pub(super) const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The version, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// This many bytes of the HTTP/2 preface have arrived, and nothing else.
    Unknown(usize),
    Http1,
    Http2,
}

impl Protocol {
    /// Of a connection on which nothing has arrived.
    pub(super) const UNKNOWN: Self = Self::Unknown(0);

    /// Reads the next bytes, however they are split. Returns those that follow the preface of HTTP/2.
    pub(super) fn detect<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Self::Unknown(seen) = *self else { return bytes };
        let missing = H2_PREFACE.get(seen..).unwrap_or_default();
        let (head, rest) = bytes.split_at(missing.len().min(bytes.len()));
        *self = match missing.strip_prefix(head) {
            None => Self::Http1,
            Some([]) => Self::Http2,
            Some(_) => Self::Unknown(seen + head.len()),
        };
        rest
    }
}
