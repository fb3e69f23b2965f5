//! Repacks small frames into larger ones.
//!
//! At low rates a commit serves few jobs and its frame is a kilobyte or two, and the codec starts each frame without a
//! dictionary. Such frames take half as many bytes again as large ones. So before a segment of small frames is uploaded, they
//! are joined into frames of the size that they have at the highest rates.
//!
//! Invariants: the lines are the same, in the same order. The result depends on the frames only, so that a repeated upload,
//! also by another process, writes the same bytes. A frame that cannot be decompressed stays unchanged, and so do frames that
//! would not become smaller.

use std::{fmt, iter};

use zstd::zstd_safe;

use super::{Compression, FRAME_MAX_BYTES, FrameEncoder};
use crate::inflate::{Encoding, inflate};

/// Frames are small if they hold fewer bytes of lines than this on average. Larger frames take at most a fifth more bytes than
/// repacked ones, which is not worth the CPU time under load.
const SMALL_FRAME_BYTES: usize = 12 * 1024;

/// Whether the frames in `bytes`, which have the lengths `frames`, should be repacked.
pub fn are_small(compression: Compression, bytes: &[u8], frames: &[usize]) -> bool {
    let mut rest = bytes;
    let total = frames.iter().fold(0_usize, |sum, len| {
        let (frame, others) = rest.split_at_checked(*len).unwrap_or_default();
        rest = others;
        // A frame of unknown size counts as large. One that was packed in parts has at least as many bytes of lines as it takes.
        sum.saturating_add(lines(compression, frame).map_or(usize::MAX, |lines| lines.max(*len)))
    });
    frames.len() > 1 && total / frames.len() < SMALL_FRAME_BYTES
}

/// Repacks small frames. Holds the state of a codec and two buffers of about [`FRAME_MAX_BYTES`].
#[derive(Default)]
pub struct Repacker {
    encoder: Option<(Compression, FrameEncoder)>,
    /// The decompressed lines of the frames that are joined.
    lines: Vec<u8>,
    /// The frame that they become.
    packed: Vec<u8>,
}

impl Repacker {
    /// Repacks the frames in `bytes`, which have the lengths `frames`. CPU-bound.
    pub fn repack(&mut self, compression: Compression, bytes: &mut Vec<u8>, frames: &[usize]) {
        let Some(encoding) = encoding(compression) else { return };
        let (mut from, mut to, mut rest) = (0, 0, frames);
        while !rest.is_empty() {
            let count = self.decompress(encoding, bytes.get(from..).unwrap_or_default(), rest);
            let (joined, others) = rest.split_at(count.max(1));
            let len: usize = joined.iter().sum();
            let is_shorter = count > 1 && self.pack(compression) && self.packed.len() < len;
            // In place: the result is never longer than what was read.
            match bytes.get_mut(to..to + self.packed.len()) {
                Some(target) if is_shorter => {
                    target.copy_from_slice(&self.packed);
                    to += self.packed.len();
                }
                _ => {
                    bytes.copy_within(from..from + len, to);
                    to += len;
                }
            }
            from += len;
            rest = others;
        }
        bytes.truncate(to);
    }

    /// Decompresses the first frames, as many as fit into one. Returns how many; 0 if the first one stays unchanged.
    fn decompress(&mut self, encoding: Encoding, bytes: &[u8], frames: &[usize]) -> usize {
        self.lines.clear();
        let mut start = 0;
        let fit = frames.iter().take_while(|len| {
            let frame = bytes.get(start..start + **len).unwrap_or_default();
            start += **len;
            // The limit is on the actual size, whatever the header of the frame says.
            let lines = inflate(encoding, frame, FRAME_MAX_BYTES - self.lines.len());
            lines.is_ok_and(|lines| {
                self.lines.extend_from_slice(&lines);
                true
            })
        });
        fit.count()
    }

    /// Compresses the lines as one frame. Returns whether that succeeded.
    fn pack(&mut self, compression: Compression) -> bool {
        self.packed.clear();
        if self.encoder.as_ref().is_none_or(|(of, _)| *of != compression) {
            self.encoder = FrameEncoder::new(compression).ok().map(|encoder| (compression, encoder));
        }
        let Some((_, encoder)) = &mut self.encoder else { return false };
        encoder.pack(iter::once(self.lines.as_slice()), &mut self.packed).is_ok()
    }
}

impl fmt::Debug for Repacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repacker").finish_non_exhaustive()
    }
}

/// The encoding to decompress; none if frames of this codec are not repacked.
fn encoding(compression: Compression) -> Option<Encoding> {
    match compression {
        Compression::Gzip => Some(Encoding::Gzip),
        Compression::Zstd => Some(Encoding::Zstd),
        Compression::None => None,
    }
}

/// The bytes of lines in a frame, from its metadata: gzip at its end (RFC 1952, 2.3.1), zstd in its header (RFC 8878, 3.1.1).
fn lines(compression: Compression, frame: &[u8]) -> Option<usize> {
    match compression {
        Compression::Gzip => frame.last_chunk().and_then(|size| usize::try_from(u32::from_le_bytes(*size)).ok()),
        Compression::Zstd => zstd_safe::get_frame_content_size(frame).ok()?.and_then(|size| usize::try_from(size).ok()),
        Compression::None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

    /// The frames of a segment, one for each of `contents`.
    fn frames(compression: Compression, contents: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut encoder = FrameEncoder::new(compression).unwrap();
        let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
        for lines in contents {
            let start = bytes.len();
            encoder.pack(iter::once(lines.as_slice()), &mut bytes).unwrap();
            lengths.push(bytes.len() - start);
        }
        (bytes, lengths)
    }

    fn repacked(compression: Compression, contents: &[Vec<u8>]) -> Vec<u8> {
        let (mut bytes, lengths) = frames(compression, contents);
        Repacker::default().repack(compression, &mut bytes, &lengths);
        bytes
    }

    fn unpack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        encoding(compression).map_or_else(|| bytes.to_vec(), |encoding| inflate(encoding, bytes, 1 << 30).unwrap())
    }

    /// Lines of telemetry: similar, but not equal.
    fn telemetry(range: std::ops::Range<usize>) -> Vec<u8> {
        range.map(|n| format!("{{\"device\":\"probe\",\"n\":{n},\"t\":{}}}\n", n * n % 1009)).collect::<String>().into()
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            8 => (0_usize..1000, 0_usize..50).prop_map(|(start, len)| telemetry(start..start + len)),
            2 => vec(any::<u8>(), 0..3000),
            // Many lines in a small frame.
            1 => (0..2 * FRAME_MAX_BYTES).prop_map(|len| vec![b' '; len]),
        ]
    }

    #[test]
    fn a_frame_of_several_parts_is_not_small_because_one_of_them_is() {
        let part: Vec<u8> = iter::repeat_with(|| fastrand::digit(10) as u8).take(64 * 1024).collect();
        for compression in CODECS {
            for parts in [[part.clone(), b"{}\n".to_vec()], [b"{}\n".to_vec(), part.clone()]] {
                let frame = frames(compression, &parts).0;
                let lengths = [frame.len(); 3];
                assert!(!are_small(compression, &frame.repeat(3), &lengths), "{compression:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_lines_are_the_same_and_take_no_more_bytes(
            contents in vec(content(), 1..40),
            compression in prop_oneof![Just(Compression::Gzip), Just(Compression::Zstd), Just(Compression::None)],
        ) {
            let before = frames(compression, &contents).0;
            let after = repacked(compression, &contents);
            prop_assert_eq!(unpack(compression, &after), contents.concat());
            prop_assert!(after.len() <= before.len());
        }

        #[test]
        fn equal_frames_become_equal_bytes_whatever_was_repacked_before(
            contents in vec(content(), 0..20), before in vec(content(), 0..20),
        ) {
            let mut used = Repacker::default();
            for compression in CODECS {
                let (mut other, lengths) = frames(compression, &before);
                used.repack(compression, &mut other, &lengths);
                let (mut bytes, lengths) = frames(compression, &contents);
                used.repack(compression, &mut bytes, &lengths);
                prop_assert_eq!(bytes, repacked(compression, &contents));
            }
        }
    }

    #[test]
    fn small_frames_become_as_few_as_can_hold_their_lines() {
        let contents: Vec<_> = (0..2000).map(|n| telemetry(10 * n..10 * n + 10)).collect();
        let lines = contents.concat();
        let fewest = lines.len().div_ceil(FRAME_MAX_BYTES - 1000);
        for compression in CODECS {
            let (bytes, lengths) = frames(compression, &contents);
            assert!(are_small(compression, &bytes, &lengths), "{compression:?}");
            let large: Vec<_> = lines.chunks(FRAME_MAX_BYTES).map(<[u8]>::to_vec).collect();
            let ideal = frames(compression, &large).0.len();
            let after = repacked(compression, &contents);
            assert!(after.len() < ideal + ideal / 50, "{compression:?}: {} of {ideal}", after.len());
            let magic: &[u8] = if compression == Compression::Gzip {
                &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff]
            } else {
                &[0x28, 0xb5, 0x2f, 0xfd]
            };
            assert_eq!(memchr::memmem::find_iter(&after, magic).count(), fewest, "{compression:?}");
        }
    }

    #[test]
    fn a_frame_that_cannot_be_decompressed_is_unchanged_and_the_order_is_kept() {
        let contents: Vec<_> = (0..9).map(|n| telemetry(10 * n..10 * n + 10)).collect();
        for compression in CODECS {
            let (mut bytes, lengths) = frames(compression, &contents);
            let start: usize = lengths[..4].iter().sum();
            let bad = start..start + lengths[4];
            bytes[bad.start + lengths[4] / 2] ^= 0x10;
            let kept = bytes[bad.clone()].to_vec();
            Repacker::default().repack(compression, &mut bytes, &lengths);
            let at = memchr::memmem::find(&bytes, &kept).unwrap();
            assert_eq!(unpack(compression, &bytes[..at]), contents[..4].concat(), "{compression:?}");
            assert_eq!(unpack(compression, &bytes[at + kept.len()..]), contents[5..].concat(), "{compression:?}");
            assert!(at < start, "{compression:?}: the valid frames are joined");
        }
    }

    #[test]
    fn the_size_of_a_frame_is_that_of_its_lines_and_not_its_compressed_size() {
        for compression in CODECS {
            let is_small = |contents: &[Vec<u8>]| {
                let (bytes, lengths) = frames(compression, contents);
                are_small(compression, &bytes, &lengths)
            };
            let (small, large) = (vec![b' '; SMALL_FRAME_BYTES - 1], vec![b' '; SMALL_FRAME_BYTES]);
            assert!(is_small(&[small.clone(), small.clone()]), "{compression:?}");
            assert!(!is_small(&[large.clone(), large.clone()]), "{compression:?}");
            assert!(!is_small(&[small]), "{compression:?}: a single frame is not repacked");
            assert!(!is_small(&[]), "{compression:?}");
        }
        assert!(!are_small(Compression::None, b"{}\n{}\n", &[3, 3]));
    }
}
