//! A body's `Content-Encoding`, undone up to a limit. Pure.

use std::io::{self, BufRead, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// A sender's zstd frames may ask for a window of 2 to this many bytes: 8 MiB, as RFC 9659 has it for HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Telemetry is seldom more than so many times as long as it was compressed.
const USUAL_RATIO: usize = 10;
/// deflate cannot do better (RFC 1951: 258 bytes for two bits).
const DEFLATE_RATIO_MAX: usize = 1032;

/// A body that is longer than it said gets so much more room at the least.
const LEAST_GROWTH: usize = 8 * 1024;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// zlib (RFC 1950), which HTTP calls deflate, or bare deflate (RFC 1951), which some senders take it for.
    Deflate,
    /// zstd (RFC 8878).
    Zstd,
}

/// Why a body could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// It is longer than the limit.
    #[error("decompresses to more than {0} bytes")]
    TooLarge(usize),
    /// The caller has no room for what decompressing takes.
    #[error("there is no room for the decompressed body")]
    OutOfBudget,
    /// It is cut short, damaged, or something else.
    #[error("{0}")]
    Corrupt(#[from] io::Error),
}

/// Decompresses `body` to at most `most` bytes: at the limit it stops, whatever may follow.
///
/// # Errors
/// [`InflateError`].
pub fn inflate(encoding: Encoding, body: &[u8], most: usize) -> Result<Vec<u8>, InflateError> {
    inflate_with_budget(encoding, body, most, &mut |_| true)
}

/// [`inflate`] that asks `room` before it takes memory, for all that it then holds of the decompressed body, in bytes; and
/// stops where there is none.
///
/// # Errors
/// [`InflateError`].
pub fn inflate_with_budget(
    encoding: Encoding,
    body: &[u8],
    most: usize,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, InflateError> {
    // One more than the body has, to find its end without more room.
    let expected = expected_len(encoding, body).min(most) + 1;
    let output = Output { expected, most, room };
    match encoding {
        Encoding::Gzip => output.read(MultiGzDecoder::new(body)),
        Encoding::Deflate if is_zlib(body) => output.read_to_the_end(ZlibDecoder::new(body), ZlibDecoder::into_inner),
        Encoding::Deflate => output.read_to_the_end(DeflateDecoder::new(body), DeflateDecoder::into_inner),
        Encoding::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(body)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            output.read(decoder)
        }
    }
}

/// How long a body says that it is decompressed, or may well be: for the room to begin with, and for nothing else, since
/// it may say what it likes. Room that is not used costs nothing; in too little of it, a small body is decompressed in
/// many small pieces.
fn expected_len(encoding: Encoding, body: &[u8]) -> usize {
    let usual = body.len().saturating_mul(USUAL_RATIO);
    match encoding {
        // Of the last member (RFC 1952, 2.3.1).
        Encoding::Gzip => {
            let said = body.last_chunk().map_or(usual, |length| u32::from_le_bytes(*length) as usize);
            said.min(body.len().saturating_mul(DEFLATE_RATIO_MAX))
        }
        Encoding::Deflate => usual,
        // Of the first frame, where it says so (RFC 8878, 3.1.1.1.4).
        Encoding::Zstd => match zstd::zstd_safe::get_frame_content_size(body) {
            Ok(Some(length)) => usize::try_from(length).unwrap_or(usize::MAX),
            Ok(None) | Err(_) => usual,
        },
    }
}

/// Where a decompressed body goes.
struct Output<'r> {
    /// The room to begin with.
    expected: usize,
    most: usize,
    room: &'r mut dyn FnMut(usize) -> bool,
}

impl Output<'_> {
    fn read(self, mut decoder: impl Read) -> Result<Vec<u8>, InflateError> {
        let Self { expected, most, room } = self;
        let mut decoded = Vec::new();
        let mut more = expected;
        loop {
            // The old memory may be held until the new one has its contents.
            if !room(decoded.capacity() + decoded.len() + more) {
                return Err(InflateError::OutOfBudget);
            }
            decoded.reserve_exact(more);
            let spare = decoded.capacity() - decoded.len();
            let read = decoder.by_ref().take(spare as u64).read_to_end(&mut decoded)?;
            if decoded.len() > most {
                return Err(InflateError::TooLarge(most));
            }
            if read < spare {
                return Ok(decoded);
            }
            // One more than the limit, to tell a body that ends there from one that goes on.
            more = decoded.len().max(LEAST_GROWTH).min(most + 1 - decoded.len());
        }
    }

    /// [`read`](Self::read), for formats that end by themselves: nothing may follow.
    fn read_to_the_end<'a, D: Read>(
        self,
        mut decoder: D,
        rest: impl FnOnce(D) -> &'a [u8],
    ) -> Result<Vec<u8>, InflateError> {
        let decoded = self.read(&mut decoder)?;
        match rest(decoder).fill_buf() {
            Ok([]) => Ok(decoded),
            _ => Err(InflateError::Corrupt(io::Error::other("there are bytes after the end of the compressed data"))),
        }
    }
}

/// Whether the first two bytes are a zlib header (RFC 1950, 2.2).
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..] if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn inflate(encoding: Encoding, body: &[u8], most: usize) -> Result<Vec<u8>, InflateError> {
        let mut asked = 0;
        let inflated = inflate_with_budget(encoding, body, most, &mut |bytes| {
            asked = bytes;
            true
        });
        assert!(inflated.as_ref().map_or(0, Vec::capacity) <= asked, "room is asked for before it is taken");
        inflated
    }

    #[test]
    fn without_room_nothing_more_is_decompressed() {
        let data = vec![b' '; 10 << 20];
        for encoding in ALL {
            let body = encoded(encoding, &data);
            let mut asked = 0;
            let refused = inflate_with_budget(encoding, &body, data.len(), &mut |bytes| {
                asked = bytes;
                bytes <= 1 << 20
            });
            assert!(matches!(refused, Err(InflateError::OutOfBudget)), "{encoding:?}");
            assert!(asked > 1 << 20, "{encoding:?}");
        }
    }

    fn encoded(encoding: Encoding, data: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => zstd::encode_all(data, 1).unwrap(),
        }
    }

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];

    #[test]
    fn what_was_compressed_comes_back_up_to_the_limit_and_not_past_it() {
        let data = b"[{\"a\":1}]".repeat(1000);
        for encoding in ALL {
            let body = encoded(encoding, &data);
            assert_eq!(inflate(encoding, &body, data.len()).unwrap(), data, "{encoding:?}");
            let over = inflate(encoding, &body, data.len() - 1);
            assert!(matches!(over, Err(InflateError::TooLarge(_))), "{encoding:?}");
        }
    }

    #[test]
    fn a_length_that_is_a_lie_is_found_out_and_one_of_the_last_member_is_enough() {
        let data = b"[{\"a\":1}]".repeat(1000);
        let mut body = encoded(Encoding::Gzip, &data);
        let at = body.len() - 4;
        for lie in [0, 1, u32::MAX] {
            body[at..].copy_from_slice(&lie.to_le_bytes());
            let inflated = inflate(Encoding::Gzip, &body, 10 << 20);
            assert!(matches!(inflated, Err(InflateError::Corrupt(_))), "{lie}: {inflated:?}");
            assert!(expected_len(Encoding::Gzip, &body) <= body.len() * DEFLATE_RATIO_MAX, "{lie}");
            assert!(matches!(inflate(Encoding::Gzip, &body, 100), Err(InflateError::TooLarge(100))), "{lie}");
        }
        // The length is that of the last member.
        let members = [encoded(Encoding::Gzip, &data), encoded(Encoding::Gzip, b"")].concat();
        assert_eq!(inflate(Encoding::Gzip, &members, data.len()).unwrap(), data);
    }

    #[test]
    fn bare_deflate_is_taken_as_well() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"{}").unwrap();
        assert_eq!(inflate(Encoding::Deflate, &encoder.finish().unwrap(), 10).unwrap(), b"{}");
    }

    #[test]
    fn members_and_frames_may_follow_one_another() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let body = [encoded(encoding, b"[{}"), encoded(encoding, b",{}]")].concat();
            assert_eq!(inflate(encoding, &body, 100).unwrap(), b"[{},{}]", "{encoding:?}");
        }
    }

    #[test]
    fn a_body_that_is_cut_short_damaged_or_followed_by_garbage_is_corrupt() {
        for encoding in ALL {
            let whole = encoded(encoding, &b"telemetry".repeat(50));
            for end in [1, whole.len() / 2, whole.len() - 1] {
                let cut = inflate(encoding, &whole[..end], 10_000);
                assert!(matches!(cut, Err(InflateError::Corrupt(_))), "{encoding:?} cut at {end}: {cut:?}");
            }
            let garbage = [whole.as_slice(), b"garbage"].concat();
            assert!(matches!(inflate(encoding, &garbage, 10_000), Err(InflateError::Corrupt(_))), "{encoding:?}");
            assert!(matches!(inflate(encoding, b"[{\"a\":1}]", 10_000), Err(InflateError::Corrupt(_))), "{encoding:?}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        for encoding in ALL {
            let bomb = encoded(encoding, &vec![b' '; 50 << 20]);
            assert!(bomb.len() < 100_000, "{encoding:?}: {}", bomb.len());
            assert!(matches!(inflate(encoding, &bomb, 10 << 20), Err(InflateError::TooLarge(_))), "{encoding:?}");
        }
    }
}
