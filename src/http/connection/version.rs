//! Which HTTP a connection speaks, by its first bytes.

/// What HTTP/2 begins with (RFC 9113, 3.4). Until all of it has come it may still be a request of HTTP/1.
pub(super) const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The version, as far as it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// So many bytes of HTTP/2's preface came, and nothing else yet.
    Open(usize),
    Http1,
    Http2,
}

impl Version {
    /// Of a connection on which nothing has come.
    pub(super) const NEW: Self = Self::Open(0);

    /// Decides by the bytes that come next, in whatever pieces they do; what is behind HTTP/2's preface is returned.
    pub(super) fn follow<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Self::Open(seen) = *self else { return bytes };
        let missing = H2_PREFACE.get(seen..).unwrap_or_default();
        let (head, rest) = bytes.split_at(missing.len().min(bytes.len()));
        *self = match missing.strip_prefix(head) {
            None => Self::Http1,
            Some([]) => Self::Http2,
            Some(_) => Self::Open(seen + head.len()),
        };
        rest
    }
}
