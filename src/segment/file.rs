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
//! before it are durable, and nothing is appended after an append that failed. So a bad stretch before a good frame was
//! acknowledged, and is damage.
//!
//! What follows the last good frame is judged by how the segment ended. Of a sealed one the file's name says how many jobs,
//! payloads and bytes were committed ([`crate::spool`]), so every byte of those that cannot be read is damage, and the
//! number of dead jobs is exact ([`Salvage::complete`]). Of one whose process died before the seal it is judged by what is
//! there (`tail.rs`): it was never acknowledged, was acknowledged, or it cannot be known.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};
use memchr::memmem;

use super::{SegmentId, tail};

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
    pub total_jobs: u32,
    /// The places of jobs that were in damaged frames.
    pub dead: Vec<Range<u32>>,
    /// Payloads that were in damaged frames.
    pub dead_payloads: u64,
    /// Bytes at the end that were never acknowledged: the beginning of a frame whose append did not finish.
    pub torn: usize,
    /// Jobs at the end that were damaged if they were acknowledged, which cannot be known.
    pub possibly_lost: Option<PossiblyLost>,
    /// Whether the file's own header is damaged.
    pub headless: bool,
    /// Bytes that the disk could not read, and that are zeros here: known damage, wherever they are.
    pub unreadable: usize,
}

impl Salvage {
    /// Jobs that were in damaged frames.
    pub fn dead_jobs(&self) -> u64 {
        self.dead.iter().map(|places| u64::from(places.end - places.start)).sum()
    }

    /// Whether anything that was acknowledged is known to be damaged.
    pub fn is_damaged(&self) -> bool {
        self.headless || self.unreadable > 0 || !self.dead.is_empty()
    }

    /// Whether there are bytes that a person should look at: known damage, or what may be damage.
    pub fn is_suspect(&self) -> bool {
        self.is_damaged() || self.possibly_lost.is_some()
    }

    /// Places whose jobs are not in the good frames: those of dead jobs, and those of jobs that are possibly lost.
    pub fn lost_indexes(&self) -> Vec<Range<u32>> {
        let possibly = self.possibly_lost.map(PossiblyLost::indexes);
        self.dead.iter().cloned().chain(possibly).collect()
    }

    /// Enters what is known to have been committed to the segment: what of it is not in the good frames is dead.
    pub fn complete(&mut self, jobs: u32, payloads: u32) {
        (self.torn, self.possibly_lost) = (0, None);
        if jobs > self.total_jobs {
            self.add_dead(self.total_jobs..jobs);
            self.total_jobs = jobs;
        }
        self.dead_payloads = u64::from(payloads).saturating_sub(self.payloads);
    }

    /// Enters that an earlier read of an open segment found so many jobs and payloads: what is missing now is dead, and what
    /// may have been behind it is as uncertain as before.
    pub fn compare_with_earlier_read(&mut self, jobs: u32, payloads: u32) {
        if jobs > self.total_jobs {
            self.add_dead(self.total_jobs..jobs);
            self.total_jobs = jobs;
            self.possibly_lost = Some(PossiblyLost::unknown(jobs));
            self.dead_payloads = u64::from(payloads).saturating_sub(self.payloads);
        }
    }

    pub(super) fn add_dead(&mut self, places: Range<u32>) {
        match self.dead.last_mut() {
            _ if places.is_empty() => {}
            Some(last) if last.end == places.start => last.end = places.end,
            _ => self.dead.push(places),
        }
    }
}

/// Jobs of which it cannot be known whether they were acknowledged, and which cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PossiblyLost {
    /// The first of their places.
    pub first: u32,
    /// How many jobs and payloads; none if that cannot be read either.
    pub counts: Option<(u32, u32)>,
}

impl PossiblyLost {
    /// Any number of jobs from this place on.
    pub fn unknown(from: u32) -> Self {
        Self { first: from, counts: None }
    }

    /// Their places; all from the first on if their number is unknown.
    pub fn indexes(self) -> Range<u32> {
        self.first..self.counts.map_or(u32::MAX, |(jobs, _)| self.first.saturating_add(jobs))
    }
}

/// Finds the good frames of segment `id` in its file, whatever else is there. Allocates for the frames that it finds and
/// for nothing else, so a length that lies costs nothing.
pub fn salvage(id: SegmentId, file: &[u8]) -> Salvage {
    let mut found = Salvage::default();
    let (mut at, mut next_job, mut next_payload) = (FILE_HEADER_LEN.min(file.len()), 0, 0);
    let mut good_until = at;
    while let Some((start, counts, data)) = next_frame(id, file, at) {
        if counts.first_job > next_job {
            found.add_dead(next_job..counts.first_job);
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
    found.total_jobs = next_job;
    found.headless = is_headless(id, file, !found.data.is_empty());
    tail::examine(id, file, good_until, &mut found);
    found
}

/// Whether the file's header is damaged. It is appended together with the first frame: without a good frame it may be cut
/// short or, as a file system may leave it after a power loss, still nothing but zeros.
fn is_headless(id: SegmentId, file: &[u8], has_frames: bool) -> bool {
    let there = file.get(..FILE_HEADER_LEN).unwrap_or(file);
    !file_header(id).starts_with(there) && (has_frames || there.iter().any(|byte| *byte != 0))
}

/// The first good frame at `from` or after: where it begins, its counts and where its data is.
fn next_frame(id: SegmentId, file: &[u8], from: usize) -> Option<(usize, FrameCounts, Range<usize>)> {
    let good = |at: usize| frame_at(id, file, at).map(|(counts, data)| (at, counts, data));
    // Nearly always the frame begins where the one before ended.
    good(from).or_else(|| memmem::find_iter(file.get(from..)?, FRAME_MAGIC).find_map(|offset| good(from + offset)))
}

fn frame_at(id: SegmentId, file: &[u8], at: usize) -> Option<(FrameCounts, Range<usize>)> {
    let header = header_at(id, file, at)?;
    let data = file.get(header.data.clone())?;
    (crc(&[data]) == header.data_crc).then_some((header.counts, header.data))
}

/// A frame's header that is good, whatever its data is.
pub(super) struct FrameHeader {
    pub(super) counts: FrameCounts,
    /// Where the data is, which may be beyond the end of the file.
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
        assert_eq!((salvage.torn, salvage.possibly_lost), (0, Some(PossiblyLost::unknown(2))));
    }

    proptest! {
        #[test]
        fn any_cut_leaves_exactly_the_good_frames_before_it(contents in contents(), at in any::<prop::sample::Index>()) {
            let sample = sample(contents);
            let cut = &sample.file[..at.index(sample.file.len() + 1)];
            let salvage = salvage(sample.id, cut);
            let whole = sample.frames.iter().filter(|frame| frame.end <= cut.len()).count();
            prop_assert_eq!(found(cut, &salvage), &sample.contents[..whole]);
            prop_assert!(salvage.dead.is_empty() && salvage.possibly_lost.is_none(), "an append that did not finish is no loss");
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
            // Of the last frame it is not known whether it was acknowledged, any other was.
            let places = salvage.possibly_lost.map(|lost| (lost.first, lost.counts));
            match hit {
                Some(last) if last + 1 == sample.contents.len() => {
                    let is_header = at < sample.frames[last].start + FRAME_HEADER_LEN;
                    prop_assert_eq!(places, Some((2 * last as u32, if is_header { None } else { Some((2, 3)) })));
                }
                _ => prop_assert!(places.is_none()),
            }
            prop_assert_eq!(salvage.torn, 0);
            match hit {
                Some(hit) if hit + 1 < sample.contents.len() => {
                    let places = 2 * hit as u32..2 * hit as u32 + 2;
                    prop_assert_eq!(&salvage.dead, &[places]);
                    prop_assert_eq!((salvage.dead_jobs(), salvage.dead_payloads), (2, 3));
                }
                _ => prop_assert!(salvage.dead.is_empty()),
            }
        }

        /// `bad` are bytes that are replaced: none, some, a long stretch, or all of them.
        #[test]
        fn of_a_sealed_segment_every_job_is_good_or_dead_whatever_became_of_the_bytes(
            contents in contents(), len in any::<prop::sample::Index>(),
            bad in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let sample = sample(contents);
            let (jobs, payloads) = (2 * sample.frames.len() as u32, 3 * sample.frames.len() as u32);
            let mut file = sample.file.clone();
            for (from, until, byte) in bad {
                let (from, until) = (from.index(file.len()), until.index(file.len()));
                file[from.min(until)..=from.max(until)].fill(byte);
            }
            let is_cut = len.index(2) == 1;
            file.truncate(if is_cut { len.index(file.len() + 1) } else { file.len() });
            let mut salvage = salvage(sample.id, &file);
            salvage.complete(jobs, payloads);
            prop_assert_eq!(salvage.jobs + salvage.dead_jobs(), u64::from(jobs));
            prop_assert_eq!(salvage.payloads + salvage.dead_payloads, u64::from(payloads));
            prop_assert_eq!((salvage.total_jobs, salvage.torn, salvage.possibly_lost), (jobs, 0, None));
            prop_assert!(file == sample.file || salvage.is_damaged(), "every unreadable byte is damage");
        }

        /// Whatever the last append left that did not finish, and whatever is damaged: what is not good is known to be dead,
        /// is possibly lost, or is a part of the last frame.
        #[test]
        fn of_an_open_segment_no_acknowledged_job_is_passed_over(
            contents in contents(), cut in any::<prop::sample::Index>(),
            bad in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let sample = sample(contents);
            // All frames but the last were acknowledged, and that one too if it is whole.
            let last = sample.frames.last().unwrap();
            let len = last.start + cut.index(last.len() + 1);
            let acknowledged = 2 * (sample.frames.len() as u32 - u32::from(len < last.end));
            let mut file = sample.file[..len].to_vec();
            for (at, byte) in bad {
                let at = at.index(file.len());
                file[at] = byte;
            }
            let salvage = salvage(sample.id, &file);
            let known = salvage.jobs + salvage.dead_jobs();
            prop_assert!(known == u64::from(acknowledged) || salvage.possibly_lost.is_some(), "{salvage:?}");
            prop_assert!(known <= u64::from(acknowledged), "no job is made up: {salvage:?}");
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
