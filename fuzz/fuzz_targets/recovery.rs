//! Recovery of a damaged or arbitrary segment file: it takes the valid frames, in bounds, in order, and no job twice. Frames
//! that were written and not damaged are found.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millpond::segment::SegmentId;
use millpond::segment::file::{FRAME_HEADER_LEN, FrameCounts, file_header, frame_header};
use millpond::segment::salvage::{Salvage, salvage};

fuzz_target!(|input: &[u8]| {
    let id = id();
    let Some((mode, rest)) = input.split_first() else { return };
    match mode % 3 {
        0 => check(rest, &salvage(id, rest)),
        // After a valid header.
        1 => {
            let file = [file_header(id).as_slice(), rest].concat();
            check(&file, &salvage(id, &file));
        }
        _ => written(id, rest),
    }
});

/// The same in every run, so that a failure can be reproduced.
fn id() -> SegmentId {
    "01234567-89ab-7cde-8f01-23456789abcd".parse().expect("a UUIDv7")
}

/// What holds for any file.
fn check(file: &[u8], found: &Salvage) {
    let mut end = 0;
    for data in &found.data {
        assert!(data.start >= end + FRAME_HEADER_LEN && data.start <= data.end && data.end <= file.len());
        end = data.end;
    }
    assert!(found.torn_bytes <= file.len() - end);
    let mut next = 0;
    for dead in &found.dead {
        assert!(dead.start >= next && dead.start < dead.end && dead.end <= found.total_jobs);
        next = dead.end;
    }
    // A frame may claim more jobs than there are indexes: the last index is the limit.
    let sum = found.jobs + found.dead_jobs();
    assert!(sum == u64::from(found.total_jobs) || (sum > u64::from(found.total_jobs) && found.total_jobs == u32::MAX));
    assert!(found.data.len() * FRAME_HEADER_LEN <= file.len());
    if let Some(lost) = found.possibly_lost {
        assert!(found.torn_bytes == 0 && lost.first == found.total_jobs && lost.indexes().end >= lost.first);
    }
    // If the file's name counts one more job than was found, that job is dead, and no job is possibly lost.
    if let Some(jobs) = found.total_jobs.checked_add(1) {
        let mut sealed = found.clone();
        sealed.complete(jobs, u32::MAX);
        assert!(sealed.jobs + sealed.dead_jobs() == u64::from(jobs));
        assert!(sealed.possibly_lost.is_none() && sealed.torn_bytes == 0 && sealed.is_damaged());
    }
}

/// Builds a file from `plan`, damages it as the plan says, and checks that the undamaged frames are found.
fn written(id: SegmentId, plan: &[u8]) {
    let mut plan = plan.iter().copied();
    let mut next = || plan.next().unwrap_or_default();
    let mut file = file_header(id).to_vec();
    let mut frames = Vec::new();
    let (mut first_job, mut first_payload) = (0, 0);
    for n in 0..next() % 8 {
        let (jobs, payloads, len) = (1 + u32::from(next() % 5), u32::from(next()), usize::from(next()) * 3);
        let counts = FrameCounts { first_job, jobs, first_payload, payloads };
        let start = file.len();
        // A magic number within the data must not be taken for a frame.
        let data: Vec<u8> =
            if n % 2 == 0 { vec![next(); len] } else { b"MPF1".iter().copied().cycle().take(len).collect() };
        file.extend_from_slice(&frame_header(id, counts, &data));
        file.extend_from_slice(&data);
        frames.push((start..file.len(), counts));
        (first_job, first_payload) = (first_job + jobs, first_payload + payloads);
    }
    let mut damaged = vec![false; frames.len()];
    for _ in 0..next() % 4 {
        let at = usize::from(u16::from_le_bytes([next(), next()])) % file.len();
        let flip = 1 << (next() % 8);
        file[at] ^= flip;
        for (is_damaged, _) in damaged.iter_mut().zip(&frames).filter(|(_, (frame, _))| frame.contains(&at)) {
            *is_damaged = true;
        }
    }
    if next() % 2 == 1 {
        let end = usize::from(u16::from_le_bytes([next(), next()])) % (file.len() + 1);
        file.truncate(end);
        for (is_damaged, _) in damaged.iter_mut().zip(&frames).filter(|(_, (frame, _))| frame.end > end) {
            *is_damaged = true;
        }
    }
    let found = salvage(id, &file);
    check(&file, &found);
    let mut data = found.data.iter();
    // Two flips may undo each other, so a damaged frame may be valid. An undamaged one always is.
    let mut kept = Vec::new();
    for (is_damaged, (frame, counts)) in damaged.iter().zip(&frames) {
        let expected = frame.start + FRAME_HEADER_LEN..frame.end;
        if !*is_damaged {
            assert!(data.any(|data| *data == expected), "an undamaged frame is lost");
            kept.push(counts);
        }
    }
    let jobs: u64 = kept.iter().map(|counts| u64::from(counts.jobs)).sum();
    assert!(found.jobs >= jobs);
    for counts in kept {
        let jobs = counts.first_job..counts.first_job + counts.jobs;
        assert!(found.dead.iter().all(|dead| dead.end <= jobs.start || dead.start >= jobs.end));
    }
    if !damaged.contains(&true) {
        assert!(found.dead.is_empty() && found.jobs == jobs && found.torn_bytes == 0 && found.possibly_lost.is_none());
    }
}
