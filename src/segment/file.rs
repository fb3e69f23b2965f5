//! The format of a segment on disk, version 1: a header and frames, each with its own checksums. Pure.
//!
//! ```text
//! file   = header frame*
//! header = "MPONDSEG"  id (16 bytes)  zero (4)  crc (4)
//! frame  = "MPF1"  length (4)  first job (4)  jobs (4)  first payload (4)  payloads (4)  data crc (4)  crc (4)  data
//! ```
//!
//! Numbers are little-endian. `crc` is CRC-32C (RFC 3720, B.4) of the preceding bytes of the header. That of a frame also
//! covers the segment's id, so that a frame of another segment, which a reused disk block may hold, is not valid in this one.
//! `length` is the number of bytes of data. `first job` is the number of jobs in the frames before, so that a frame keeps the
//! indexes of its jobs even if the frame before it is lost.
//!
//! Invariants: the data of all frames, concatenated, is the object. A frame is acknowledged only when it and all frames
//! before it are durable, and nothing is appended after a failed append. So an invalid stretch before a valid frame was
//! acknowledged, and is damage. [`super::salvage`] judges what follows the last valid frame.

use std::io;
use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};
use memchr::memmem;

use super::SegmentId;

const FILE_MAGIC: &[u8; 8] = b"MPONDSEG";
const FRAME_MAGIC: &[u8; 4] = b"MPF1";
/// Bytes before the first frame.
pub const FILE_HEADER_LEN: usize = 32;
/// Bytes before the data of a frame.
pub const FRAME_HEADER_LEN: usize = 32;

/// The header of a segment's file.
pub fn file_header(id: SegmentId) -> [u8; FILE_HEADER_LEN] {
    let mut header = [0; FILE_HEADER_LEN];
    put(&mut header, 0, FILE_MAGIC);
    put(&mut header, 8, id.as_bytes());
    let crc = crc(&[&header[..28]]);
    put(&mut header, 28, &crc.to_le_bytes());
    header
}

/// The counts in the header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameCounts {
    /// Jobs in the frames before.
    pub first_job: u32,
    /// Jobs in this frame.
    pub jobs: u32,
    /// Payloads in the frames before.
    pub first_payload: u32,
    /// Payloads in this frame.
    pub payloads: u32,
}

/// The header of the frame whose data is `data`.
pub fn frame_header(id: SegmentId, counts: FrameCounts, data: &[u8]) -> [u8; FRAME_HEADER_LEN] {
    let mut header = [0; FRAME_HEADER_LEN];
    put(&mut header, 0, FRAME_MAGIC);
    // A frame is a small part of an object, and an object is under 5 GiB.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let numbers = [length, counts.first_job, counts.jobs, counts.first_payload, counts.payloads, crc(&[data])];
    for (i, number) in numbers.iter().enumerate() {
        put(&mut header, 4 + 4 * i, &number.to_le_bytes());
    }
    let crc = crc(&[id.as_bytes(), &header[..28]]);
    put(&mut header, 28, &crc.to_le_bytes());
    header
}

/// Appends a frame whose data `pack` appends, in front of it the header of the file if the frame is the first. Returns the
/// length of the data.
///
/// # Errors
/// That of `pack`.
pub fn append_frame(
    out: &mut Vec<u8>,
    id: SegmentId,
    is_first: bool,
    counts: FrameCounts,
    pack: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<usize> {
    if is_first {
        out.extend_from_slice(&file_header(id));
    }
    let header_at = out.len();
    let data_at = header_at + FRAME_HEADER_LEN;
    out.resize(data_at, 0);
    pack(out)?;
    let (front, data) = out.split_at_mut(data_at);
    put(front, header_at, &frame_header(id, counts, data));
    Ok(data.len())
}

/// A valid frame in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The offset of its header.
    pub offset: usize,
    /// The counts in its header.
    pub counts: FrameCounts,
    /// The range of its data.
    pub data: Range<usize>,
}

/// The valid frames of segment `id` in its file, in the order in which they are in it.
pub fn frames(id: SegmentId, file: &[u8]) -> impl Iterator<Item = Frame> {
    let mut from = FILE_HEADER_LEN.min(file.len());
    std::iter::from_fn(move || {
        let frame = next_frame(id, file, from)?;
        from = frame.data.end.max(frame.offset + 1);
        Some(frame)
    })
}

/// The first valid frame at `from` or after.
fn next_frame(id: SegmentId, file: &[u8], from: usize) -> Option<Frame> {
    let valid = |offset: usize| frame_at(id, file, offset).map(|(counts, data)| Frame { offset, counts, data });
    // Without damage a frame begins where the one before it ended.
    valid(from).or_else(|| memmem::find_iter(file.get(from..)?, FRAME_MAGIC).find_map(|offset| valid(from + offset)))
}

fn frame_at(id: SegmentId, file: &[u8], at: usize) -> Option<(FrameCounts, Range<usize>)> {
    let header = header_at(id, file, at)?;
    let data = file.get(header.data.clone())?;
    (crc(&[data]) == header.data_crc).then_some((header.counts, header.data))
}

/// A valid header of a frame, whether or not the data is valid.
pub(super) struct FrameHeader {
    pub(super) counts: FrameCounts,
    /// The range of the data, which may be beyond the end of the file.
    pub(super) data: Range<usize>,
    data_crc: u32,
}

pub(super) fn header_at(id: SegmentId, file: &[u8], at: usize) -> Option<FrameHeader> {
    let header = file.get(at..at.checked_add(FRAME_HEADER_LEN)?)?;
    let number = |i: usize| Some(u32::from_le_bytes(header.get(4 + 4 * i..8 + 4 * i)?.try_into().ok()?));
    if !header.starts_with(FRAME_MAGIC) || number(6)? != crc(&[id.as_bytes(), header.get(..28)?]) {
        return None;
    }
    let start = at + FRAME_HEADER_LEN;
    let data = start..start.checked_add(usize::try_from(number(0)?).ok()?)?;
    let counts =
        FrameCounts { first_job: number(1)?, jobs: number(2)?, first_payload: number(3)?, payloads: number(4)? };
    Some(FrameHeader { counts, data, data_crc: number(5)? })
}

fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = header.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

fn crc(parts: &[&[u8]]) -> u32 {
    let sum = match parts {
        [one] => checksum(CrcAlgorithm::Crc32Iscsi, one),
        parts => {
            let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
            parts.iter().for_each(|part| digest.update(part));
            digest.finalize()
        }
    };
    // The sum is in the low 32 bits.
    sum as u32
}
