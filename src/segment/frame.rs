//! Compressing the lines of a commit as one frame.

use std::io;

use crc_fast::{CrcAlgorithm, Digest};
use flate2::{Compress, FlushCompress, Status};
use zstd::bulk::Compressor;
use zstd::zstd_safe;

use super::Compression;

/// Level 1 of either codec: at telemetry's rates the processor is dearer than the bytes.
const LEVEL: u8 = 1;
/// deflate writes into a buffer of this size, set up once: flate2 clears what it is given before it writes there, and to
/// clear what a segment has left took half of the server's time.
const OUTPUT_STEP: usize = 64 * 1024;
/// Jobs are gathered up to this size before deflate gets them, unless one is larger: a call costs it as much as a few
/// hundred bytes do, and many a job is no longer than that.
const INPUT_STEP: usize = 64 * 1024;
/// A gzip header (RFC 1952, 2.3): deflate, no name, no time, fastest level, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];

/// Turns the lines of a commit into one frame. Holds the codec's state, so that a frame costs no set-up.
pub struct FrameEncoder(Codec);

enum Codec {
    Gzip(Box<Gzip>),
    /// With the lines gathered, so that the codec sees them whole and the frame's header says how many bytes they are.
    Zstd(Box<Compressor<'static>>, Vec<u8>),
    None,
}

struct Gzip {
    deflate: Compress,
    /// Lines of small jobs, gathered.
    input: Vec<u8>,
    output: Box<[u8]>,
}

impl FrameEncoder {
    /// # Errors
    /// When the codec cannot be set up: out of memory.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::Gzip => {
                let deflate = Compress::new(flate2::Compression::new(u32::from(LEVEL)), false);
                let (input, output) = (Vec::with_capacity(INPUT_STEP), vec![0; OUTPUT_STEP].into_boxed_slice());
                Codec::Gzip(Box::new(Gzip { deflate, input, output }))
            }
            Compression::Zstd => {
                let mut compressor = Compressor::new(i32::from(LEVEL))?;
                compressor.include_checksum(true)?;
                Codec::Zstd(Box::new(compressor), Vec::new())
            }
            Compression::None => Codec::None,
        }))
    }

    /// Appends to `out` one frame that decompresses to `parts`, one after the other.
    ///
    /// # Errors
    /// When the codec fails; `out` then ends where it began.
    pub fn pack<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        let packed = match &mut self.0 {
            Codec::Gzip(gzip) => gzip.pack(parts, out),
            Codec::Zstd(compressor, lines) => {
                lines.clear();
                parts.for_each(|part| lines.extend_from_slice(part));
                pack_zstd(compressor, lines, out)
            }
            Codec::None => {
                parts.for_each(|part| out.extend_from_slice(part));
                Ok(())
            }
        };
        if packed.is_err() {
            out.truncate(start);
        }
        packed
    }
}

impl Gzip {
    fn pack<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> io::Result<()> {
        let Self { deflate, input, output } = self;
        deflate.reset();
        input.clear();
        out.extend_from_slice(&GZIP_HEADER);
        let mut crc = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
        let mut length = 0_u32;
        let mut take = |input: &[u8], flush, out: &mut Vec<u8>| {
            crc.update(input);
            // Modulo 2^32, as the format has it.
            length = length.wrapping_add(input.len() as u32);
            feed(deflate, output, input, flush, out)
        };
        for part in parts {
            if input.len() + part.len() > INPUT_STEP {
                take(input, FlushCompress::None, out)?;
                input.clear();
            }
            if part.len() > INPUT_STEP {
                take(part, FlushCompress::None, out)?;
            } else {
                input.extend_from_slice(part);
            }
        }
        take(input, FlushCompress::Finish, out)?;
        // A 32-bit sum in the low half.
        out.extend_from_slice(&(crc.finalize() as u32).to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        Ok(())
    }
}

/// Drives deflate until it has taken all of `input` and, when finishing, has given all of its output.
fn feed(
    deflate: &mut Compress,
    buffer: &mut [u8],
    mut input: &[u8],
    flush: FlushCompress,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let amount = |after: u64, before: u64| usize::try_from(after - before).unwrap_or(usize::MAX);
    loop {
        let (before_in, before_out) = (deflate.total_in(), deflate.total_out());
        let status = deflate.compress(input, buffer, flush).map_err(io::Error::other)?;
        input = input.get(amount(deflate.total_in(), before_in)..).unwrap_or_default();
        out.extend_from_slice(buffer.get(..amount(deflate.total_out(), before_out)).unwrap_or_default());
        let finishing = matches!(flush, FlushCompress::Finish);
        let done = if finishing { status == Status::StreamEnd } else { input.is_empty() };
        if done {
            return Ok(());
        }
    }
}

fn pack_zstd(compressor: &mut Compressor<'_>, lines: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.resize(start + zstd_safe::compress_bound(lines.len()), 0);
    let room = out.get_mut(start..).unwrap_or_default();
    let written = compressor.compress_to_buffer(lines, room)?;
    out.truncate(start + written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn unpack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        match compression {
            Compression::Gzip => MultiGzDecoder::new(bytes).read_to_end(&mut lines).map(|_| ()).unwrap(),
            Compression::Zstd => zstd::stream::copy_decode(bytes, &mut lines).unwrap(),
            Compression::None => lines.extend_from_slice(bytes),
        }
        lines
    }

    proptest! {
        #[test]
        fn frames_one_after_the_other_are_one_file(
            frames in vec(vec(vec(any::<u8>(), 0..2000), 0..5), 1..5),
            compression in prop_oneof![Just(Compression::Gzip), Just(Compression::Zstd), Just(Compression::None)],
        ) {
            let mut encoder = FrameEncoder::new(compression).unwrap();
            let mut file = Vec::new();
            for parts in &frames {
                encoder.pack(parts.iter().map(Vec::as_slice), &mut file).unwrap();
            }
            prop_assert_eq!(unpack(compression, &file), frames.concat().concat());
        }
    }

    #[test]
    fn a_frame_larger_than_the_steps_is_whole_whatever_the_sizes_of_its_jobs() {
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5 * OUTPUT_STEP).collect();
        let (small, rest) = noise.split_at(1000);
        let (large, others) = rest.split_at(INPUT_STEP + 1);
        for parts in [noise.chunks(1000).collect(), vec![small, large, others], vec![noise.as_slice()]] {
            for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
                let mut file = Vec::new();
                FrameEncoder::new(compression).unwrap().pack(parts.iter().copied(), &mut file).unwrap();
                assert_eq!(unpack(compression, &file), noise, "{compression:?}, {} jobs", parts.len());
            }
        }
    }
}
