//! Decompresses bodies (`Content-Encoding`) up to a limit. Pure.

use std::io::{self, BufRead, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// The logarithm of the largest window of a zstd frame: 8 MiB, the limit of RFC 9659 for HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Telemetry is rarely compressed to less than a tenth.
const USUAL_RATIO: usize = 10;
/// The limit of the format (RFC 1951: 258 bytes for two bits).
const DEFLATE_RATIO_MAX: usize = 1032;
/// zstd cannot do better (RFC 8878: a block of one repeated byte has 4 bytes for at most 128 KiB).
const ZSTD_RATIO_MAX: usize = 32 * 1024;

/// The minimum growth of the buffer, for bodies that are longer than expected.
const MIN_GROWTH: usize = 8 * 1024;

/// The compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// gzip (RFC 1952), with one or more members.
    Gzip,
    /// zlib (RFC 1950), which HTTP calls deflate; or raw deflate (RFC 1951), which some clients send instead.
    Deflate,
    /// zstd (RFC 8878).
    Zstd,
}

/// Why a body was not decompressed.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// It exceeds the limit.
    #[error("decompresses to more than {0} bytes")]
    TooLarge(usize),
    /// The caller did not reserve the memory for the decompressed body.
    #[error("no memory is reserved for the decompressed body")]
    OutOfBudget,
    /// It is truncated, damaged, or in another format.
    #[error("{0}")]
    Corrupt(#[from] io::Error),
}

/// Decompresses `body`, and stops when it exceeds `max_bytes`.
///
/// # Errors
/// [`InflateError`].
pub fn inflate(encoding: Encoding, body: &[u8], max_bytes: usize) -> Result<Vec<u8>, InflateError> {
    inflate_with_budget(encoding, body, max_bytes, &mut |_| true)
}

/// Like [`inflate`], but before each allocation `reserve` has to grant the memory for the decompressed body, in bytes,
/// including the old buffer that is copied.
///
/// # Errors
/// [`InflateError`].
pub fn inflate_with_budget(
    encoding: Encoding,
    body: &[u8],
    max_bytes: usize,
    reserve: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, InflateError> {
    // One byte more, to reach the end of the body without another allocation.
    let expected = expected_len(encoding, body).min(max_bytes) + 1;
    let output = Output { expected, max_bytes, reserve };
    match encoding {
        Encoding::Gzip => output.read(MultiGzDecoder::new(body)),
        Encoding::Deflate if is_zlib(body) => output.read_to_end(ZlibDecoder::new(body), ZlibDecoder::into_inner),
        Encoding::Deflate => output.read_to_end(DeflateDecoder::new(body), DeflateDecoder::into_inner),
        Encoding::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(body)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            output.read(decoder)
        }
    }
}

/// The decompressed length that the body declares, if its format has one. The client may declare any length.
pub(crate) fn declared_len(encoding: Encoding, body: &[u8]) -> Option<usize> {
    match encoding {
        // The length of the last member (RFC 1952, 2.3.1).
        Encoding::Gzip => {
            let declared = u32::from_le_bytes(*body.last_chunk()?) as usize;
            Some(declared.min(body.len().saturating_mul(DEFLATE_RATIO_MAX)))
        }
        Encoding::Deflate => None,
        // The length of the first frame, which is optional (RFC 8878, 3.1.1.1.4).
        Encoding::Zstd => {
            let length = zstd::zstd_safe::get_frame_content_size(body).ok()??;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            Some(length.min(body.len().saturating_mul(ZSTD_RATIO_MAX)))
        }
    }
}

/// The initial size of the buffer: the declared length, or an estimate. Unused memory costs nothing; a buffer that is too
/// small slows small bodies down.
fn expected_len(encoding: Encoding, body: &[u8]) -> usize {
    declared_len(encoding, body).unwrap_or_else(|| body.len().saturating_mul(USUAL_RATIO))
}

/// The buffer for a decompressed body.
struct Output<'r> {
    /// The initial size.
    expected: usize,
    max_bytes: usize,
    reserve: &'r mut dyn FnMut(usize) -> bool,
}

impl Output<'_> {
    fn read(self, mut decoder: impl Read) -> Result<Vec<u8>, InflateError> {
        let Self { expected, max_bytes, reserve } = self;
        let mut decoded = Vec::new();
        let mut additional = expected;
        loop {
            // The old buffer is freed after it was copied to the new one.
            if !reserve(decoded.capacity() + decoded.len() + additional) {
                return Err(InflateError::OutOfBudget);
            }
            decoded.reserve_exact(additional);
            let spare = decoded.capacity() - decoded.len();
            let read = decoder.by_ref().take(spare as u64).read_to_end(&mut decoded)?;
            if decoded.len() > max_bytes {
                return Err(InflateError::TooLarge(max_bytes));
            }
            if read < spare {
                return Ok(decoded);
            }
            // One byte more than the limit, to detect a body that exceeds it.
            additional = decoded.len().max(MIN_GROWTH).min(max_bytes + 1 - decoded.len());
        }
    }

    /// Like [`read`](Self::read), for formats that mark their end: no bytes may follow it.
    fn read_to_end<'a, D: Read>(
        self,
        mut decoder: D,
        rest: impl FnOnce(D) -> &'a [u8],
    ) -> Result<Vec<u8>, InflateError> {
        let decoded = self.read(&mut decoder)?;
        match rest(decoder).fill_buf() {
            Ok([]) => Ok(decoded),
            _ => Err(InflateError::Corrupt(io::Error::other("bytes follow the end of the compressed data"))),
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

    fn inflate(encoding: Encoding, body: &[u8], max_bytes: usize) -> Result<Vec<u8>, InflateError> {
        let mut reserved = 0;
        let inflated = inflate_with_budget(encoding, body, max_bytes, &mut |bytes| {
            reserved = bytes;
            true
        });
        assert!(inflated.as_ref().map_or(0, Vec::capacity) <= reserved, "memory is reserved before it is allocated");
        inflated
    }

    #[test]
    fn decompression_stops_when_the_budget_is_exhausted() {
        let data = vec![b' '; 10 << 20];
        for encoding in ALL {
            let body = encoded(encoding, &data);
            let mut reserved = 0;
            let result = inflate_with_budget(encoding, &body, data.len(), &mut |bytes| {
                reserved = bytes;
                bytes <= 1 << 20
            });
            assert!(matches!(result, Err(InflateError::OutOfBudget)), "{encoding:?}");
            assert!(reserved > 1 << 20, "{encoding:?}");
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
    fn bodies_are_decompressed_up_to_the_limit() {
        let data = b"[{\"a\":1}]".repeat(1000);
        for encoding in ALL {
            let body = encoded(encoding, &data);
            assert_eq!(inflate(encoding, &body, data.len()).unwrap(), data, "{encoding:?}");
            let over = inflate(encoding, &body, data.len() - 1);
            assert!(matches!(over, Err(InflateError::TooLarge(_))), "{encoding:?}");
        }
    }

    #[test]
    fn a_wrong_length_in_the_trailer_is_detected() {
        let data = b"[{\"a\":1}]".repeat(1000);
        let mut body = encoded(Encoding::Gzip, &data);
        let at = body.len() - 4;
        for length in [0, 1, u32::MAX] {
            body[at..].copy_from_slice(&length.to_le_bytes());
            let inflated = inflate(Encoding::Gzip, &body, 10 << 20);
            assert!(matches!(inflated, Err(InflateError::Corrupt(_))), "{length}: {inflated:?}");
            assert!(expected_len(Encoding::Gzip, &body) <= body.len() * DEFLATE_RATIO_MAX, "{length}");
            assert!(matches!(inflate(Encoding::Gzip, &body, 100), Err(InflateError::TooLarge(100))), "{length}");
        }
        // The trailer has the length of the last member only.
        let members = [encoded(Encoding::Gzip, &data), encoded(Encoding::Gzip, b"")].concat();
        assert_eq!(inflate(Encoding::Gzip, &members, data.len()).unwrap(), data);
    }

    #[test]
    fn raw_deflate_is_accepted() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"{}").unwrap();
        assert_eq!(inflate(Encoding::Deflate, &encoder.finish().unwrap(), 10).unwrap(), b"{}");
    }

    #[test]
    fn concatenated_members_and_frames_are_accepted() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let body = [encoded(encoding, b"[{}"), encoded(encoding, b",{}]")].concat();
            assert_eq!(inflate(encoding, &body, 100).unwrap(), b"[{},{}]", "{encoding:?}");
        }
    }

    #[test]
    fn truncated_and_damaged_bodies_and_trailing_bytes_are_corrupt() {
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
    fn a_decompression_bomb_is_stopped_at_the_limit() {
        for encoding in ALL {
            let bomb = encoded(encoding, &vec![b' '; 50 << 20]);
            assert!(bomb.len() < 100_000, "{encoding:?}: {}", bomb.len());
            assert!(matches!(inflate(encoding, &bomb, 10 << 20), Err(InflateError::TooLarge(_))), "{encoding:?}");
        }
    }
}
