//! The user-defined metadata of an object in S3: `segment`, `jobs`, `payloads`, and for a damaged segment `dead`, `unsure`
//! and `places`. Pure.
//!
//! S3 allows 2 KB of metadata for an object, names included. The indexes of dead jobs are ranges such as `3-5` (the end
//! excluded), separated by commas. If there are too many, those that are closest together are merged, and a merged range
//! goes to `unsure`: some of its jobs are in the object and some are not. So the index of a dead job is always in one of the
//! two lists. `places` is then the number of jobs in the segment, dead ones included.

use std::collections::HashMap;
use std::ops::Range;

use super::{StoredObject, Upload};

/// Bytes for the ranges, of the 2,048 that S3 allows. The rest takes under 300.
const RANGES_MAX_BYTES: usize = 1500;
/// The most bytes of one range: two 32-bit numbers, a hyphen and a comma.
const RANGE_MAX_BYTES: usize = 22;
/// This many ranges always fit.
const RANGES_MAX: usize = RANGES_MAX_BYTES / RANGE_MAX_BYTES;

/// The metadata of an object.
pub(super) fn metadata(upload: &Upload<'_>) -> HashMap<String, String> {
    let mut metadata = HashMap::from([
        ("segment".to_owned(), upload.segment.to_string()),
        ("jobs".to_owned(), upload.jobs.to_string()),
        ("payloads".to_owned(), upload.payloads.to_string()),
    ]);
    let exact = text(&upload.dead);
    if exact.len() <= RANGES_MAX_BYTES {
        if !exact.is_empty() {
            metadata.insert("dead".to_owned(), exact);
        }
        return metadata;
    }
    let (dead, unsure) = merged(&upload.dead);
    if !dead.is_empty() {
        metadata.insert("dead".to_owned(), text(&dead));
    }
    metadata.insert("unsure".to_owned(), text(&unsure));
    metadata.insert("places".to_owned(), (upload.jobs + jobs_in(&upload.dead)).to_string());
    metadata
}

/// Parses what [`metadata`] wrote.
pub(super) fn parse(metadata: &HashMap<String, String>) -> StoredObject {
    let number = |name: &str| metadata.get(name).and_then(|text| text.parse::<u64>().ok());
    let (dead, unsure) = (ranges(metadata.get("dead")), ranges(metadata.get("unsure")));
    let jobs = number("jobs");
    let total = number("places").or_else(|| jobs.map(|jobs| jobs.saturating_add(jobs_in(&dead))));
    let total_jobs = total.map(|total| u32::try_from(total).unwrap_or(u32::MAX));
    StoredObject { total_jobs, dead, unsure, jobs, payloads: number("payloads") }
}

fn jobs_in(ranges: &[Range<u32>]) -> u64 {
    ranges.iter().map(|range| range.len() as u64).sum()
}

/// At most [`RANGES_MAX`] ranges that cover all of `ranges`: the unchanged ones, and the merged ones.
fn merged(ranges: &[Range<u32>]) -> (Vec<Range<u32>>, Vec<Range<u32>>) {
    let gap = |pair: &[Range<u32>]| match pair {
        [one, next] => next.start.saturating_sub(one.end),
        _ => 0,
    };
    let mut gaps: Vec<u32> = ranges.windows(2).map(gap).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    // Ranges are merged across this gap and narrower ones. Fewer than `RANGES_MAX` gaps are wider.
    let widest_merged = gaps.get(RANGES_MAX - 1).copied().unwrap_or_default();
    let (mut dead, mut unsure) = (Vec::new(), Vec::new());
    let mut rest = ranges;
    while let Some(first) = rest.first() {
        let more = rest.windows(2).take_while(|pair| gap(pair) <= widest_merged).count();
        let (group, others) = rest.split_at(more + 1);
        let end = group.last().map_or(first.end, |last| last.end);
        if more == 0 { &mut dead } else { &mut unsure }.push(first.start..end);
        rest = others;
    }
    (dead, unsure)
}

fn text(ranges: &[Range<u32>]) -> String {
    let texts: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end)).collect();
    texts.join(",")
}

fn ranges(text: Option<&String>) -> Vec<Range<u32>> {
    let range = |text: &str| {
        let (start, end) = text.split_once('-')?;
        Some(start.parse().ok()?..end.parse().ok()?)
    };
    text.map(|text| text.split(',').filter_map(range).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const METADATA_MAX_BYTES: usize = 2048;

    fn upload(jobs: u64, dead: Vec<Range<u32>>) -> Upload<'static> {
        Upload {
            key: "",
            body: bytes::Bytes::new(),
            segment: crate::segment::SegmentId::new(std::time::UNIX_EPOCH),
            jobs,
            payloads: 20,
            dead,
            is_damaged: true,
            may_exist: false,
            unconfirmed_payloads: None,
        }
    }

    #[test]
    fn metadata_is_parsed_as_it_was_written() {
        let upload = upload(10, vec![3..5, 11..12]);
        let expected = StoredObject {
            total_jobs: Some(13),
            dead: upload.dead.clone(),
            jobs: Some(10),
            payloads: Some(20),
            ..StoredObject::default()
        };
        assert_eq!(parse(&metadata(&upload)), expected);
        assert_eq!(parse(&HashMap::new()), StoredObject::default());
    }

    proptest! {
        #[test]
        fn the_metadata_always_fits_and_covers_every_dead_job(
            steps in vec((1_u32..2000, 1_u32..50), 0..1500),
            far in 0_u32..4_000_000_000,
        ) {
            let mut at = far;
            let mut dead = Vec::new();
            for (gap, len) in steps {
                let start = at.saturating_add(gap);
                at = start.saturating_add(len);
                if start < at {
                    dead.push(start..at);
                }
            }
            let lost = jobs_in(&dead);
            let written = metadata(&upload(u64::from(u32::MAX) - lost, dead.clone()));
            let bytes: usize = written.iter().map(|(name, value)| "x-amz-meta-".len() + name.len() + value.len()).sum();
            prop_assert!(bytes <= METADATA_MAX_BYTES, "{bytes}");
            let read = parse(&written);
            prop_assert_eq!(read.total_jobs, Some(u32::MAX));
            for range in &dead {
                let is_covered = |list: &[Range<u32>]| list.iter().any(|r| r.start <= range.start && range.end <= r.end);
                prop_assert!(is_covered(&read.dead) || is_covered(&read.unsure), "{range:?}");
            }
            for range in &read.dead {
                prop_assert!(dead.contains(range), "only dead jobs are called dead: {range:?}");
            }
        }
    }
}
