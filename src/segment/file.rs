//! The format of a segment on disk, version 1: a header and frames, each of which can be checked by itself. Pure.
//!
//! ```text
//! file   = header frame*
//! header = "MPONDSEG"  id (16 bytes)  zero (4)  crc (4)
//! frame  = "MPF1"  length (4)  first job (4)  jobs (4)  first payload (4)  payloads (4)  data crc (4)  crc (4)  data
//! ```
//!
//! Numbers are little-endian. `crc` is CRC-32C (RFC 3720, B.4) of the bytes of the header before it; a frame's is taken
//! over the segment's id as well, so that a frame of another segment, as a reused disk block may hold it, is no frame of
//! this one. `length` counts the bytes of data, and `first job` the jobs in the frames before, so that a frame keeps its
//! jobs' places even when the one before it is lost.
//!
//! Invariants: the data of all frames, one after the other, is the object. A frame is acknowledged only when it and all
//! before it are durable, so what follows the last good frame was never acknowledged; but a bad stretch *between* good
//! frames was, and is damage.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};
use memchr::memmem;

use super::SegmentId;

const FILE_MAGIC: &[u8; 8] = b"MPONDSEG";
const FRAME_MAGIC: &[u8; 4] = b"MPF1";
/// Bytes before the first frame.
pub const FILE_HEADER_LEN: usize = 32;
/// Bytes before a frame's data.
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

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameCounts {
    /// Jobs in the frames before.
    pub first_job: u32,
    /// Jobs in this one.
    pub jobs: u32,
    /// Payloads in the frames before.
    pub first_payload: u32,
    /// Payloads in this one.
    pub payloads: u32,
}

/// The header of the frame whose data is `data`.
pub fn frame_header(id: SegmentId, counts: FrameCounts, data: &[u8]) -> [u8; FRAME_HEADER_LEN] {
    let mut header = [0; FRAME_HEADER_LEN];
    put(&mut header, 0, FRAME_MAGIC);
    // A frame is a fraction of an object, and an object is under 5 GiB.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let numbers = [length, counts.first_job, counts.jobs, counts.first_payload, counts.payloads, crc(&[data])];
    for (i, number) in numbers.iter().enumerate() {
        put(&mut header, 4 + 4 * i, &number.to_le_bytes());
    }
    let crc = crc(&[id.as_bytes(), &header[..28]]);
    put(&mut header, 28, &crc.to_le_bytes());
    header
}

/// What is left of a segment's file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Salvage {
    /// Where the data of the good frames is in the file.
    pub data: Vec<Range<usize>>,
    /// Jobs in the good frames.
    pub jobs: u64,
    /// Payloads in the good frames.
    pub payloads: u64,
    /// Places that the segment has: those of the good jobs and of the dead ones.
    pub places: u32,
    /// The places of jobs that were in damaged frames.
    pub dead: Vec<Range<u32>>,
    /// Payloads that were in damaged frames.
    pub dead_payloads: u64,
    /// Bytes after the last good frame.
    pub torn: usize,
    /// Whether the file's own header is damaged.
    pub headless: bool,
}

impl Salvage {
    /// Jobs that were in damaged frames.
    pub fn dead_jobs(&self) -> u64 {
        self.dead.iter().map(|places| u64::from(places.end - places.start)).sum()
    }

    /// Whether there is damage beyond a torn tail.
    pub fn is_damaged(&self) -> bool {
        self.headless || !self.dead.is_empty()
    }
}

/// Finds the good frames of segment `id` in its file, whatever else is there. Allocates for the frames that it finds and
/// for nothing else, so a length that lies costs nothing.
pub fn salvage(id: SegmentId, file: &[u8]) -> Salvage {
    let mut found = Salvage { headless: is_headless(id, file), ..Salvage::default() };
    let (mut at, mut next_job, mut next_payload) = (FILE_HEADER_LEN.min(file.len()), 0, 0);
    let mut good_until = at;
    while let Some((start, counts, data)) = next_frame(id, file, at) {
        if counts.first_job > next_job {
            found.dead.push(next_job..counts.first_job);
            found.dead_payloads += u64::from(counts.first_payload.saturating_sub(next_payload));
        }
        // One that repeats what was there cannot be; one that claims to must not be stored twice.
        if counts.first_job >= next_job {
            next_job = counts.first_job.saturating_add(counts.jobs);
            next_payload = counts.first_payload.saturating_add(counts.payloads);
            found.jobs += u64::from(counts.jobs);
            found.payloads += u64::from(counts.payloads);
            found.data.push(data.clone());
        }
        at = data.end.max(start + 1);
        good_until = at;
    }
    found.places = next_job;
    found.torn = file.len() - good_until;
    found
}

/// Whether the file's header is damaged, and not merely cut short or, as a file system may leave it after a power loss,
/// still nothing but zeros.
fn is_headless(id: SegmentId, file: &[u8]) -> bool {
    let there = file.get(..FILE_HEADER_LEN).unwrap_or(file);
    !file_header(id).starts_with(there) && there.iter().any(|byte| *byte != 0)
}

/// The first good frame at `from` or after: where it begins, its counts and where its data is.
fn next_frame(id: SegmentId, file: &[u8], from: usize) -> Option<(usize, FrameCounts, Range<usize>)> {
    let good = |at: usize| frame_at(id, file, at).map(|(counts, data)| (at, counts, data));
    // Nearly always the frame begins where the one before ended.
    good(from).or_else(|| memmem::find_iter(file.get(from..)?, FRAME_MAGIC).find_map(|offset| good(from + offset)))
}

fn frame_at(id: SegmentId, file: &[u8], at: usize) -> Option<(FrameCounts, Range<usize>)> {
    let header = file.get(at..at.checked_add(FRAME_HEADER_LEN)?)?;
    let number = |i: usize| Some(u32::from_le_bytes(header.get(4 + 4 * i..8 + 4 * i)?.try_into().ok()?));
    if !header.starts_with(FRAME_MAGIC) || number(6)? != crc(&[id.as_bytes(), header.get(..28)?]) {
        return None;
    }
    let start = at + FRAME_HEADER_LEN;
    let data = start..start.checked_add(usize::try_from(number(0)?).ok()?)?;
    if crc(&[file.get(data.clone())?]) != number(5)? {
        return None;
    }
    let counts =
        FrameCounts { first_job: number(1)?, jobs: number(2)?, first_payload: number(3)?, payloads: number(4)? };
    Some((counts, data))
}

fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = header.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
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
    // A 32-bit sum in the low half.
    sum as u32
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    struct Sample {
        id: SegmentId,
        file: Vec<u8>,
        /// Where each frame is, with its header.
        frames: Vec<Range<usize>>,
        contents: Vec<Vec<u8>>,
    }

    fn sample(contents: Vec<Vec<u8>>) -> Sample {
        let id = SegmentId::new(UNIX_EPOCH);
        let mut file = file_header(id).to_vec();
        let mut frames = Vec::new();
        for (i, data) in contents.iter().enumerate() {
            let i = i as u32;
            let counts = FrameCounts { first_job: 2 * i, jobs: 2, first_payload: 3 * i, payloads: 3 };
            let start = file.len();
            file.extend_from_slice(&frame_header(id, counts, data));
            file.extend_from_slice(data);
            frames.push(start..file.len());
        }
        Sample { id, file, frames, contents }
    }

    fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
        // Magic within data must not confuse anybody.
        let data = prop_oneof![vec(any::<u8>(), 0..200), Just(b"xxMPF1MPF1yy".to_vec())];
        vec(data, 1..8)
    }

    fn found(file: &[u8], salvage: &Salvage) -> Vec<Vec<u8>> {
        salvage.data.iter().map(|data| file[data.clone()].to_vec()).collect()
    }

    #[test]
    fn what_was_written_is_found() {
        let sample = sample(vec![b"one".to_vec(), vec![], b"three".to_vec()]);
        let salvage = salvage(sample.id, &sample.file);
        assert_eq!(found(&sample.file, &salvage), sample.contents);
        assert_eq!((salvage.jobs, salvage.payloads, salvage.torn), (6, 9, 0));
        assert!(!salvage.is_damaged());
    }

    #[test]
    fn a_frame_of_another_segment_is_none_of_this_one() {
        let (one, other) = (sample(vec![b"one".to_vec()]), sample(vec![b"other".to_vec()]));
        let mixed = [one.file.as_slice(), &other.file[other.frames[0].clone()]].concat();
        let salvage = salvage(one.id, &mixed);
        assert_eq!(found(&mixed, &salvage), [b"one".to_vec()]);
        assert_eq!(salvage.torn, other.frames[0].len());
    }

    proptest! {
        #[test]
        fn any_cut_leaves_exactly_the_good_frames_before_it(contents in contents(), at in any::<prop::sample::Index>()) {
            let sample = sample(contents);
            let cut = &sample.file[..at.index(sample.file.len() + 1)];
            let salvage = salvage(sample.id, cut);
            let whole = sample.frames.iter().filter(|frame| frame.end <= cut.len()).count();
            prop_assert_eq!(found(cut, &salvage), &sample.contents[..whole]);
            prop_assert!(salvage.dead.is_empty());
            let end = whole.checked_sub(1).map_or(FILE_HEADER_LEN.min(cut.len()), |last| sample.frames[last].end);
            prop_assert_eq!(salvage.torn, cut.len() - end);
        }

        #[test]
        fn any_flipped_bit_costs_its_own_frame_and_no_other(
            contents in contents(), at in any::<prop::sample::Index>(), bit in 0..8,
        ) {
            let sample = sample(contents);
            let mut file = sample.file.clone();
            let at = at.index(file.len());
            file[at] ^= 1_u8 << bit;
            let hit = sample.frames.iter().position(|frame| frame.contains(&at));
            let salvage = salvage(sample.id, &file);
            let kept: Vec<_> = (0..sample.contents.len()).filter(|i| Some(*i) != hit).collect();
            let expected: Vec<_> = kept.iter().map(|i| sample.contents[*i].clone()).collect();
            prop_assert_eq!(found(&file, &salvage), expected);
            prop_assert_eq!(salvage.headless, hit.is_none());
            // The last frame is gone like a torn tail; any other is missed.
            match hit {
                Some(hit) if hit + 1 < sample.contents.len() => {
                    let places = 2 * hit as u32..2 * hit as u32 + 2;
                    prop_assert_eq!(&salvage.dead, &[places]);
                    prop_assert_eq!((salvage.dead_jobs(), salvage.dead_payloads), (2, 3));
                }
                _ => prop_assert!(salvage.dead.is_empty()),
            }
        }

        #[test]
        fn garbage_is_survived(file in vec(any::<u8>(), 0..2000)) {
            let id = SegmentId::new(UNIX_EPOCH);
            prop_assert_eq!(salvage(id, &file).jobs, 0);
            let after_magic = [b"MPF1", file.as_slice()].concat();
            prop_assert_eq!(salvage(id, &after_magic).jobs, 0);
        }
    }
}
