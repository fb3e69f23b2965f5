//! Recovers the valid frames of a segment's file, and classifies everything else. Pure.
//!
//! A sealed file's name says how many jobs, payloads and bytes were committed ([`crate::spool`]), so each of those bytes that
//! cannot be read is damage, and the number of dead jobs is exact ([`Salvage::complete`]). The end of a file that was not
//! sealed was never acknowledged, was acknowledged, or may have been (`tail.rs`).

mod tail;

use std::ops::Range;

use super::SegmentId;
use super::file::{FILE_HEADER_LEN, Frame, file_header, frames};

/// The content of a segment's file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Salvage {
    /// The ranges of the data of the valid frames in the file.
    pub data: Vec<Range<usize>>,
    /// Jobs in the valid frames.
    pub jobs: u64,
    /// Payloads in the valid frames.
    pub payloads: u64,
    /// Jobs in the segment, dead ones included.
    pub total_jobs: u32,
    /// The indexes of jobs in damaged frames.
    pub dead: Vec<Range<u32>>,
    /// Payloads in damaged frames.
    pub dead_payloads: u64,
    /// Bytes at the end of an append that did not finish. They were never acknowledged.
    pub torn_bytes: usize,
    /// Jobs at the end that are lost if they were acknowledged, which is unknown.
    pub possibly_lost: Option<PossiblyLost>,
    /// Whether the header of the file is damaged.
    pub is_header_damaged: bool,
    /// Bytes that the disk could not read, which are zeros here.
    pub unreadable_bytes: usize,
}

impl Salvage {
    /// Jobs in damaged frames.
    pub fn dead_jobs(&self) -> u64 {
        self.dead.iter().map(|range| u64::from(range.end - range.start)).sum()
    }

    /// The jobs and payloads that are known to have been committed: in valid and in damaged frames.
    pub fn committed(&self) -> (u64, u64) {
        (self.jobs + self.dead_jobs(), self.payloads + self.dead_payloads)
    }

    /// Whether acknowledged bytes are known to be damaged.
    pub fn is_damaged(&self) -> bool {
        self.is_header_damaged || self.unreadable_bytes > 0 || !self.dead.is_empty()
    }

    /// Whether there is known or possible damage, so that the file is kept under `dead/`.
    pub fn is_suspect(&self) -> bool {
        self.is_damaged() || self.possibly_lost.is_some()
    }

    /// The indexes of dead jobs and of jobs that are possibly lost.
    pub fn lost_indexes(&self) -> Vec<Range<u32>> {
        self.dead.iter().cloned().chain(self.possibly_lost.map(PossiblyLost::indexes)).collect()
    }

    /// Given what was committed to the segment: everything that is not in the valid frames is dead.
    pub fn complete(&mut self, jobs: u32, payloads: u32) {
        (self.torn_bytes, self.possibly_lost) = (0, None);
        if jobs > self.total_jobs {
            self.add_dead(self.total_jobs..jobs);
            self.total_jobs = jobs;
        }
        self.dead_payloads = u64::from(payloads).saturating_sub(self.payloads);
    }

    /// Given what an earlier read of a segment that was not sealed has found: everything that is missing now is dead, and
    /// more jobs behind it are still possible.
    pub fn compare_with_earlier_read(&mut self, jobs: u32, payloads: u32) {
        if jobs > self.total_jobs {
            self.add_dead(self.total_jobs..jobs);
            self.total_jobs = jobs;
            self.possibly_lost = Some(PossiblyLost::unknown(jobs));
            self.dead_payloads = u64::from(payloads).saturating_sub(self.payloads);
        }
    }

    fn add_dead(&mut self, indexes: Range<u32>) {
        match self.dead.last_mut() {
            _ if indexes.is_empty() => {}
            Some(last) if last.end == indexes.start => last.end = indexes.end,
            _ => self.dead.push(indexes),
        }
    }
}

/// Jobs that cannot be read, and that may or may not have been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PossiblyLost {
    /// The index of the first one.
    pub first: u32,
    /// The numbers of jobs and payloads; none if they cannot be read either.
    pub counts: Option<(u32, u32)>,
}

impl PossiblyLost {
    /// An unknown number of jobs, from this index.
    pub fn unknown(first: u32) -> Self {
        Self { first, counts: None }
    }

    /// Their indexes; without an end if their number is unknown.
    pub fn indexes(self) -> Range<u32> {
        self.first..self.counts.map_or(u32::MAX, |(jobs, _)| self.first.saturating_add(jobs))
    }
}

/// Finds the valid frames of segment `id` in its file. Allocates only for frames that it finds, so a wrong length in a header
/// costs no memory.
pub fn salvage(id: SegmentId, file: &[u8]) -> Salvage {
    let mut found = Salvage::default();
    let (mut next_job, mut next_payload) = (0, 0);
    let mut valid_until = FILE_HEADER_LEN.min(file.len());
    for Frame { offset, counts, data } in frames(id, file) {
        if counts.first_job > next_job {
            found.add_dead(next_job..counts.first_job);
            found.dead_payloads += u64::from(counts.first_payload.saturating_sub(next_payload));
        }
        // No writer repeats a job, so a frame that does is not stored again.
        if counts.first_job >= next_job {
            next_job = counts.first_job.saturating_add(counts.jobs);
            next_payload = counts.first_payload.saturating_add(counts.payloads);
            found.jobs += u64::from(counts.jobs);
            found.payloads += u64::from(counts.payloads);
            found.data.push(data.clone());
        }
        valid_until = data.end.max(offset + 1);
    }
    found.total_jobs = next_job;
    found.is_header_damaged = is_header_damaged(id, file, !found.data.is_empty());
    tail::examine(id, file, valid_until, &mut found);
    found
}

/// Whether the header of the file is damaged. It is appended together with the first frame, so without a valid frame it may
/// be incomplete, or all zeros after a power loss.
fn is_header_damaged(id: SegmentId, file: &[u8], has_frames: bool) -> bool {
    let header = file.get(..FILE_HEADER_LEN).unwrap_or(file);
    !file_header(id).starts_with(header) && (has_frames || header.iter().any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::file::{FRAME_HEADER_LEN, FrameCounts, frame_header};
    use super::*;

    struct Sample {
        id: SegmentId,
        file: Vec<u8>,
        /// The range of each frame, header included.
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
        // A magic number within the data must not be taken for a frame.
        let data = prop_oneof![vec(any::<u8>(), 0..200), Just(b"xxMPF1MPF1yy".to_vec())];
        vec(data, 1..8)
    }

    fn found(file: &[u8], salvage: &Salvage) -> Vec<Vec<u8>> {
        salvage.data.iter().map(|data| file[data.clone()].to_vec()).collect()
    }

    #[test]
    fn written_frames_are_found() {
        let sample = sample(vec![b"one".to_vec(), vec![], b"three".to_vec()]);
        let salvage = salvage(sample.id, &sample.file);
        assert_eq!(found(&sample.file, &salvage), sample.contents);
        assert_eq!((salvage.jobs, salvage.payloads, salvage.torn_bytes), (6, 9, 0));
        assert!(!salvage.is_damaged());
    }

    #[test]
    fn a_frame_of_another_segment_is_not_valid() {
        let (one, other) = (sample(vec![b"one".to_vec()]), sample(vec![b"other".to_vec()]));
        let mixed = [one.file.as_slice(), &other.file[other.frames[0].clone()]].concat();
        let salvage = salvage(one.id, &mixed);
        assert_eq!(found(&mixed, &salvage), [b"one".to_vec()]);
        assert_eq!((salvage.torn_bytes, salvage.possibly_lost), (0, Some(PossiblyLost::unknown(2))));
    }

    proptest! {
        #[test]
        fn a_truncated_file_has_exactly_the_frames_before_its_end(contents in contents(), at in any::<prop::sample::Index>()) {
            let sample = sample(contents);
            let cut = &sample.file[..at.index(sample.file.len() + 1)];
            let salvage = salvage(sample.id, cut);
            let whole = sample.frames.iter().filter(|frame| frame.end <= cut.len()).count();
            prop_assert_eq!(found(cut, &salvage), &sample.contents[..whole]);
            prop_assert!(salvage.dead.is_empty() && salvage.possibly_lost.is_none(), "an append that did not finish loses no job");
            let end = whole.checked_sub(1).map_or(FILE_HEADER_LEN.min(cut.len()), |last| sample.frames[last].end);
            prop_assert_eq!(salvage.torn_bytes, cut.len() - end);
        }

        #[test]
        fn a_flipped_bit_costs_its_own_frame_only(
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
            prop_assert_eq!(salvage.is_header_damaged, hit.is_none());
            // Only the last frame may not have been acknowledged.
            let lost = salvage.possibly_lost.map(|lost| (lost.first, lost.counts));
            match hit {
                Some(last) if last + 1 == sample.contents.len() => {
                    let is_header = at < sample.frames[last].start + FRAME_HEADER_LEN;
                    prop_assert_eq!(lost, Some((2 * last as u32, if is_header { None } else { Some((2, 3)) })));
                }
                _ => prop_assert!(lost.is_none()),
            }
            prop_assert_eq!(salvage.torn_bytes, 0);
            match hit {
                Some(hit) if hit + 1 < sample.contents.len() => {
                    let indexes = 2 * hit as u32..2 * hit as u32 + 2;
                    prop_assert_eq!(&salvage.dead, &[indexes]);
                    prop_assert_eq!((salvage.dead_jobs(), salvage.dead_payloads), (2, 3));
                }
                _ => prop_assert!(salvage.dead.is_empty()),
            }
        }

        /// `bad` are the ranges of bytes that are replaced: none, short or long ones, or the whole file.
        #[test]
        fn every_job_of_a_sealed_segment_is_valid_or_dead_whatever_the_damage(
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
            prop_assert_eq!((salvage.total_jobs, salvage.torn_bytes, salvage.possibly_lost), (jobs, 0, None));
            prop_assert!(file == sample.file || salvage.is_damaged(), "every unreadable byte is damage");
        }

        /// After an unfinished append and any damage, a job that is not valid is dead, possibly lost, or in the last frame.
        #[test]
        fn no_acknowledged_job_of_an_open_segment_is_missed(
            contents in contents(), cut in any::<prop::sample::Index>(),
            bad in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let sample = sample(contents);
            // All frames but the last were acknowledged, and the last one too if it is complete.
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
            prop_assert!(known <= u64::from(acknowledged), "no job is invented: {salvage:?}");
        }

        #[test]
        fn garbage_holds_no_job(file in vec(any::<u8>(), 0..2000)) {
            let id = SegmentId::new(UNIX_EPOCH);
            prop_assert_eq!(salvage(id, &file).jobs, 0);
            let after_magic = [b"MPF1", file.as_slice()].concat();
            prop_assert_eq!(salvage(id, &after_magic).jobs, 0);
        }
    }
}
