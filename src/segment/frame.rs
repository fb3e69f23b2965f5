//! Compressing the lines of a commit, or of a part of it, as one gzip member or zstd frame.

use std::io;

use crc_fast::{CrcAlgorithm, Digest};
use flate2::{Compress, FlushCompress, Status};
use zstd::bulk::Compressor;
use zstd::zstd_safe;

use super::{Compression, FRAME_MAX_BYTES};

/// Level 1 of either codec: at the rates of telemetry CPU time costs more than bytes.
const LEVEL: u8 = 1;
/// The size of the buffer that deflate writes to. flate2 clears its output buffer before each write, and clearing the free
/// space of a segment took half of the server's CPU time.
const OUTPUT_STEP: usize = 64 * 1024;
/// Small jobs are collected up to this size before they are compressed, since a call of deflate costs as much as a few hundred
/// bytes, and many jobs are no larger.
const INPUT_STEP: usize = 64 * 1024;
/// A gzip header (RFC 1952, 2.3): deflate, no name, no time, fastest level, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];

/// Compresses the lines of a commit as one frame. Keeps the state of the codec, so that a frame costs no set-up.
pub struct FrameEncoder(Codec);

enum Codec {
    Gzip(Box<Gzip>),
    /// And a buffer for all lines of a frame, since the header of the frame holds their size.
    Zstd(Box<Compressor<'static>>, Vec<u8>),
    None,
}

struct Gzip {
    deflate: Compress,
    /// Collected lines of small jobs.
    input: Vec<u8>,
    output: Box<[u8]>,
}

impl FrameEncoder {
    /// An encoder for frames of this codec.
    ///
    /// # Errors
    /// The codec cannot be set up: out of memory.
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

    /// Appends one frame to `out`, which decompresses to the concatenated `parts`.
    ///
    /// # Errors
    /// The codec fails; `out` is unchanged.
    pub fn pack<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        let packed = match &mut self.0 {
            Codec::Gzip(gzip) => gzip.pack(parts, out),
            Codec::Zstd(compressor, lines) => {
                parts.for_each(|part| lines.extend_from_slice(part));
                let packed = pack_zstd(compressor, lines, out);
                // The memory of a large job is not kept.
                lines.clear();
                lines.shrink_to(FRAME_MAX_BYTES);
                packed
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
            // Modulo 2^32 (RFC 1952, 2.3.1).
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
        // The sum is in the low 32 bits.
        out.extend_from_slice(&(crc.finalize() as u32).to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        Ok(())
    }
}

/// Runs deflate until it has consumed all of `input` and, when finishing, has returned all of its output.
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
        let is_finishing = matches!(flush, FlushCompress::Finish);
        let is_done = if is_finishing { status == Status::StreamEnd } else { input.is_empty() };
        if is_done {
            return Ok(());
        }
    }
}

fn pack_zstd(compressor: &mut Compressor<'_>, lines: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.resize(start + zstd_safe::compress_bound(lines.len()), 0);
    let written = compressor.compress_to_buffer(lines, out.get_mut(start..).unwrap_or_default())?;
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
        fn concatenated_frames_are_one_file(
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
    fn the_memory_of_a_large_job_is_not_kept() {
        let mut encoder = FrameEncoder::new(Compression::Zstd).unwrap();
        let lines = vec![b'x'; 2 * FRAME_MAX_BYTES];
        encoder.pack(std::iter::once(lines.as_slice()), &mut Vec::new()).unwrap();
        assert!(matches!(&encoder.0, Codec::Zstd(_, kept) if kept.capacity() <= FRAME_MAX_BYTES));
    }

    #[test]
    fn a_frame_larger_than_the_buffers_is_complete_whatever_the_sizes_of_its_jobs() {
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
