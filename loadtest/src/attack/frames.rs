//! HTTP/2 frames as bytes (RFC 9113, 4 to 6), without a client's checks: any type, any flags, any stream.

/// The client's connection preface (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head: length, type, flags, stream.
const HEAD: usize = 9;

/// Frame types.
#[expect(missing_docs, reason = "each is the type of the same name in RFC 9113, 6")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// END_STREAM, and of SETTINGS and PING an acknowledgement.
pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;
/// The header block ends with this frame.
pub const END_HEADERS: u8 = 4;
/// The payload begins with the length of the padding at its end.
pub const PADDED: u8 = 8;

/// SETTINGS_INITIAL_WINDOW_SIZE.
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// SETTINGS_MAX_FRAME_SIZE.
pub const MAX_FRAME_SIZE: u16 = 5;

/// `GET / http` of authority `x`, with HPACK's static table alone (RFC 7541, 6.2.2).
pub const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'x'];
/// The same with POST.
pub const POST: &[u8] = &[0x83, 0x86, 0x84, 0x01, 0x01, b'x'];

/// A frame with this payload.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    let [x, y, z] = length;
    [&[x, y, z, kind, flags, a, b, c, d], payload].concat()
}

/// A client's preface and its SETTINGS.
pub fn opening(settings: &[(u16, u32)]) -> Vec<u8> {
    [PREFACE, &self::settings(settings)].concat()
}

/// SETTINGS with these parameters.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// HEADERS with a whole block.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | END_HEADERS, stream, block)
}

/// RST_STREAM with CANCEL.
pub fn cancel(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// WINDOW_UPDATE by this number of bytes.
pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// A literal header field without indexing, name and value of up to 126 bytes each (RFC 7541, 6.2.2).
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| [u8::try_from(text.len().min(126)).unwrap_or(126)];
    [&[0][..], &length(name), name, &length(value), value].concat()
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of the same name in RFC 9113, 4.1")]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Takes the first frame from `bytes`; `None` if it is incomplete.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let &[x, y, z, kind, flags, a, b, c, d] = bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        let payload = bytes.get(HEAD..HEAD + length)?.to_vec();
        bytes.drain(..HEAD + length);
        Some(Self { kind, flags, stream: u32::from_be_bytes([a & 0x7f, b, c, d]), payload })
    }

    /// The error code of RST_STREAM and GOAWAY.
    pub fn error_code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        self.payload.get(at..)?.first_chunk().map(|code| u32::from_be_bytes(*code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_written_is_read_back_once_it_is_complete() {
        let whole = [frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11]), headers(7, END_STREAM, GET)].concat();
        for end in 0..17 {
            assert_eq!(Frame::take(&mut whole[..end].to_vec()), None);
        }
        let mut bytes = whole;
        assert_eq!(Frame::take(&mut bytes).unwrap().error_code(), Some(11));
        let Frame { kind, flags, stream, payload } = Frame::take(&mut bytes).unwrap();
        assert_eq!((kind, flags, stream, &payload[..]), (kind::HEADERS, END_STREAM | END_HEADERS, 7, GET));
        assert!(bytes.is_empty());
    }
}
