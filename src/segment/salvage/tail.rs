//! The end of a segment's file that was not sealed: what can be proved about it.
//!
//! What remains when a process or a machine dies during an append, as far as file systems promise:
//!
//! - `kill -9`: a prefix of the frame.
//! - Power loss before the sync: the file ends anywhere in the frame, and each sector of the frame holds its bytes or zeros
//!   (ext4 with `data=ordered` may record the new length before it writes the bytes; XFS and Btrfs write the bytes first), or
//!   with ext4's `data=writeback` what the disk held there before.
//! - A durable length does not shrink, and no byte follows the frame whose append did not finish.
//!
//! So the bytes were never acknowledged if fewer remain than a frame header has, or if a valid header names an end beyond
//! that of the file. A frame was acknowledged if anything follows it. Neither can be proved for a frame that ends exactly
//! where the file ends and whose data is invalid, and for 32 or more bytes without a valid header, zeros included: a power
//! loss during the append and damage after the acknowledgement look the same.
//!
//! Not detected: a repair of the file system that truncates the file at the end of a frame.

use super::super::SegmentId;
use super::super::file::{FRAME_HEADER_LEN, FrameCounts, header_at};
use super::{PossiblyLost, Salvage};

/// Classifies the bytes from `at`, where the last valid frame ends, to the end of the file.
pub(super) fn examine(id: SegmentId, file: &[u8], mut at: usize, found: &mut Salvage) {
    // A frame with a valid header and invalid data, which anything that follows proves to have been acknowledged.
    let mut invalid: Option<FrameCounts> = None;
    while at < file.len() {
        if let Some(counts) = invalid.take() {
            let end = counts.first_job.saturating_add(counts.jobs);
            found.add_dead(counts.first_job..end);
            found.dead_payloads += u64::from(counts.payloads);
            found.total_jobs = end;
        }
        let rest = file.len() - at;
        let header = header_at(id, file, at).filter(|header| header.counts.first_job == found.total_jobs);
        match header {
            Some(header) if header.data.end <= file.len() => {
                at = header.data.end;
                invalid = Some(header.counts);
            }
            None if rest >= FRAME_HEADER_LEN => {
                found.possibly_lost = Some(PossiblyLost::unknown(found.total_jobs));
                return;
            }
            _ => {
                found.torn_bytes = rest;
                return;
            }
        }
    }
    found.possibly_lost = invalid.map(|FrameCounts { first_job, jobs, payloads, .. }| PossiblyLost {
        first: first_job,
        counts: Some((jobs, payloads)),
    });
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::super::file::{FILE_HEADER_LEN, file_header, frame_header};
    use super::super::salvage;
    use super::*;

    /// Two frames of one job and two payloads each; the data of `bad` is damaged.
    fn file(bad: usize) -> (SegmentId, Vec<u8>) {
        let id = SegmentId::new(UNIX_EPOCH);
        let mut file = file_header(id).to_vec();
        for n in 0..2_u32 {
            let counts = FrameCounts { first_job: n, jobs: 1, first_payload: 2 * n, payloads: 2 };
            let mut data = vec![b'x'; 100];
            file.extend_from_slice(&frame_header(id, counts, &data));
            data[50] ^= u8::from(n as usize == bad);
            file.extend_from_slice(&data);
        }
        (id, file)
    }

    #[test]
    fn a_byte_after_a_damaged_frame_proves_that_the_frame_was_acknowledged() {
        let (id, file) = file(0);
        let first = FILE_HEADER_LEN + FRAME_HEADER_LEN + 100;
        let alone = salvage(id, &file[..first]);
        assert_eq!(alone.possibly_lost, Some(PossiblyLost { first: 0, counts: Some((1, 2)) }));
        assert!(!alone.is_damaged() && alone.is_suspect());
        for more in [1, FRAME_HEADER_LEN - 1, FRAME_HEADER_LEN, FRAME_HEADER_LEN + 99] {
            let found = salvage(id, &file[..first + more]);
            assert_eq!((found.dead_jobs(), found.dead_payloads, found.total_jobs), (1, 2, 1), "{more}");
            assert_eq!((found.torn_bytes, found.possibly_lost), (more, None), "{more}");
        }
    }

    #[test]
    fn zeros_and_garbage_as_long_as_a_header_are_possibly_lost_and_shorter_ones_are_not() {
        let (id, file) = file(2);
        for byte in [0, 0x5a] {
            for (len, is_lost) in [(1, false), (FRAME_HEADER_LEN - 1, false), (FRAME_HEADER_LEN, true), (5000, true)] {
                let found = salvage(id, &[file.as_slice(), &vec![byte; len]].concat());
                assert_eq!((found.jobs, found.dead_jobs()), (2, 0));
                let (torn, lost) = if is_lost { (0, Some(PossiblyLost::unknown(2))) } else { (len, None) };
                assert_eq!((found.torn_bytes, found.possibly_lost), (torn, lost), "{len} of {byte}");
            }
        }
    }

    #[test]
    fn a_file_that_is_too_short_for_a_frame_held_no_acknowledged_job() {
        let (id, file) = file(2);
        for len in 0..FILE_HEADER_LEN + FRAME_HEADER_LEN {
            let found = [salvage(id, &file[..len]), salvage(id, &vec![0; len])];
            assert!(found.iter().all(|found| !found.is_suspect()), "{len}");
        }
        assert_eq!(salvage(id, &[0; 64]).possibly_lost, Some(PossiblyLost::unknown(0)));
    }
}
