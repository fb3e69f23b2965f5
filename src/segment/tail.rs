//! The end of a segment's file whose process died before the seal: what can be proved of it.
//!
//! What a process or a machine that dies in the middle of an append leaves, as far as file systems promise:
//!
//! - `kill -9`: the file ends with a part of the frame, from its beginning.
//! - Power loss before the sync: the file ends anywhere in the frame, and any sector of the frame holds its bytes or zeros
//!   (ext4 with `data=ordered` may record the new length of a block that was allocated before it writes the bytes; XFS and
//!   Btrfs record the length after the bytes), or with ext4's `data=writeback` whatever the disk held there.
//! - A length that was durable does not shrink, and no byte lies beyond the frame whose append did not finish.
//!
//! So it is proved that bytes were never acknowledged where fewer are left than a frame's header, or where a good header
//! names an end beyond that of the file. It is proved that a frame was acknowledged where anything follows it. Of a frame
//! that reaches exactly to the end and whose data is bad, and of 32 or more bytes without a good header, zeros too, neither
//! is proved: it is an append that a power loss cut short, or an acknowledged frame that was damaged later.
//!
//! What cannot be seen: a file system that is repaired by cutting the file where a frame ends.

use super::SegmentId;
use super::file::{FRAME_HEADER_LEN, FrameCounts, PossiblyLost, Salvage, header_at};

/// Judges the bytes from `at`, where the last good frame ends, to the end of the file.
pub(super) fn examine(id: SegmentId, file: &[u8], mut at: usize, found: &mut Salvage) {
    // A frame with a good header and bad data.
    let mut unread: Option<FrameCounts> = None;
    while at < file.len() {
        if let Some(counts) = unread.take() {
            found.add_dead(counts.first_job..counts.first_job.saturating_add(counts.jobs));
            found.dead_payloads += u64::from(counts.payloads);
            found.total_jobs = counts.first_job.saturating_add(counts.jobs);
        }
        let rest = file.len() - at;
        let header = header_at(id, file, at).filter(|header| header.counts.first_job == found.total_jobs);
        match header {
            Some(header) if header.data.end <= file.len() => {
                at = header.data.end;
                unread = Some(header.counts);
            }
            None if rest >= FRAME_HEADER_LEN => {
                found.possibly_lost = Some(PossiblyLost::unknown(found.total_jobs));
                return;
            }
            _ => {
                found.torn = rest;
                return;
            }
        }
    }
    found.possibly_lost = unread.map(|FrameCounts { first_job, jobs, payloads, .. }| PossiblyLost {
        first: first_job,
        counts: Some((jobs, payloads)),
    });
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::file::{FILE_HEADER_LEN, file_header, frame_header, salvage};
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
    fn a_byte_behind_a_damaged_frame_proves_that_it_was_acknowledged() {
        let (id, file) = file(0);
        let first = FILE_HEADER_LEN + FRAME_HEADER_LEN + 100;
        let alone = salvage(id, &file[..first]);
        assert_eq!(alone.possibly_lost, Some(PossiblyLost { first: 0, counts: Some((1, 2)) }));
        assert!(!alone.is_damaged() && alone.is_suspect());
        for more in [1, FRAME_HEADER_LEN - 1, FRAME_HEADER_LEN, FRAME_HEADER_LEN + 99] {
            let found = salvage(id, &file[..first + more]);
            assert_eq!((found.dead_jobs(), found.dead_payloads, found.total_jobs), (1, 2, 1), "{more}");
            assert_eq!((found.torn, found.possibly_lost), (more, None), "{more}");
        }
    }

    #[test]
    fn zeros_and_garbage_of_a_headers_length_are_possibly_lost_and_shorter_ones_are_not() {
        let (id, file) = file(2);
        for byte in [0, 0x5a] {
            for (len, is_lost) in [(1, false), (FRAME_HEADER_LEN - 1, false), (FRAME_HEADER_LEN, true), (5000, true)] {
                let found = salvage(id, &[file.as_slice(), &vec![byte; len]].concat());
                assert_eq!((found.jobs, found.dead_jobs()), (2, 0));
                let (torn, lost) = if is_lost { (0, Some(PossiblyLost::unknown(2))) } else { (len, None) };
                assert_eq!((found.torn, found.possibly_lost), (torn, lost), "{len} of {byte}");
            }
        }
    }

    #[test]
    fn a_file_too_short_for_a_frame_never_held_an_acknowledged_job() {
        let (id, file) = file(2);
        for len in 0..FILE_HEADER_LEN + FRAME_HEADER_LEN {
            let found = [salvage(id, &file[..len]), salvage(id, &vec![0; len])];
            assert!(found.iter().all(|found| !found.is_suspect()), "{len}");
        }
        assert_eq!(salvage(id, &[0; 64]).possibly_lost, Some(PossiblyLost::unknown(0)));
    }
}
