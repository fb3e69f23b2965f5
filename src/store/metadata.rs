//! What is kept beside an object in S3's user-defined metadata: `segment`, `jobs`, `payloads`, and of a damaged segment
//! `dead`, `unsure` and `places`. Pure.
//!
//! S3 takes 2 KB of metadata for an object, names included. The places of dead jobs are ranges such as `3-5` (the end
//! excluded) between commas. Where they are too many, those that lie closest together are merged, and a merged range goes to
//! `unsure`: some of its jobs are in the object and some are not, and nothing says which. So no place of a dead job is ever
//! missing from both lists. `places` says how many places the segment had, which the lists do not say then.

use std::collections::HashMap;
use std::ops::Range;

use super::{ObjectInfo, StoredObject};

/// The ranges may take so many bytes, of the 2,048 that S3 takes; the rest takes under 300.
const RANGES_MAX_BYTES: usize = 1500;
/// A range takes at most this: two numbers of 32 bits, a hyphen and a comma.
const RANGE_MAX_BYTES: usize = 22;
/// So many ranges always fit.
const RANGES_MAX: usize = RANGES_MAX_BYTES / RANGE_MAX_BYTES;

/// The metadata of an object.
pub(super) fn metadata(info: &ObjectInfo) -> HashMap<String, String> {
    let mut metadata = HashMap::from([
        ("segment".to_owned(), info.segment.to_string()),
        ("jobs".to_owned(), info.jobs.to_string()),
        ("payloads".to_owned(), info.payloads.to_string()),
    ]);
    let exact = text(&info.dead);
    if exact.len() <= RANGES_MAX_BYTES {
        if !exact.is_empty() {
            metadata.insert("dead".to_owned(), exact);
        }
        return metadata;
    }
    let (dead, unsure) = merged(&info.dead);
    if !dead.is_empty() {
        metadata.insert("dead".to_owned(), text(&dead));
    }
    metadata.insert("unsure".to_owned(), text(&unsure));
    let places = info.jobs + info.dead.iter().map(|places| places.len() as u64).sum::<u64>();
    metadata.insert("places".to_owned(), places.to_string());
    metadata
}

/// Reads what [`metadata`] wrote.
pub(super) fn found(metadata: &HashMap<String, String>) -> StoredObject {
    let number = |name: &str| metadata.get(name).and_then(|text| text.parse::<u64>().ok());
    let (dead, unsure) = (ranges(metadata.get("dead")), ranges(metadata.get("unsure")));
    let jobs = number("jobs");
    let lost: u64 = dead.iter().map(|places| places.len() as u64).sum();
    let places = number("places").or_else(|| jobs.map(|jobs| jobs.saturating_add(lost)));
    let places = places.map(|places| u32::try_from(places).unwrap_or(u32::MAX));
    StoredObject { total_jobs: places, dead, unsure, jobs, payloads: number("payloads") }
}

/// At most [`RANGES_MAX`] ranges that cover all of `ranges`: those that stayed as they were, and those that were merged.
fn merged(ranges: &[Range<u32>]) -> (Vec<Range<u32>>, Vec<Range<u32>>) {
    let gap = |pair: &[Range<u32>]| match pair {
        [one, next] => next.start.saturating_sub(one.end),
        _ => 0,
    };
    let mut gaps: Vec<u32> = ranges.windows(2).map(gap).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    // A gap that is wider than this one parts two ranges: there are fewer than `RANGES_MAX` of those.
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
    let texts: Vec<String> = ranges.iter().map(|places| format!("{}-{}", places.start, places.end)).collect();
    texts.join(",")
}

fn ranges(text: Option<&String>) -> Vec<Range<u32>> {
    let range = |text: &str| {
        let (start, end) = text.split_once('-')?;
        Some(start.parse().ok()?..end.parse().ok()?)
    };
    text.map(|places| places.split(',').filter_map(range).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const METADATA_MAX_BYTES: usize = 2048;

    fn info(jobs: u64, dead: Vec<Range<u32>>) -> ObjectInfo {
        let segment = crate::segment::SegmentId::new(std::time::UNIX_EPOCH);
        ObjectInfo { segment, jobs, payloads: 20, dead, is_damaged: true, earlier_payloads: None }
    }

    #[test]
    fn metadata_comes_back_as_what_it_was() {
        let info = info(10, vec![3..5, 11..12]);
        let expected = StoredObject {
            total_jobs: Some(13),
            dead: info.dead.clone(),
            jobs: Some(10),
            payloads: Some(20),
            ..StoredObject::default()
        };
        assert_eq!(found(&metadata(&info)), expected);
        assert_eq!(found(&HashMap::new()), StoredObject::default());
    }

    proptest! {
        #[test]
        fn however_much_is_dead_the_metadata_fits_and_no_dead_job_is_called_stored(
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
            let lost: u64 = dead.iter().map(|places| places.len() as u64).sum();
            let written = metadata(&info(u64::from(u32::MAX) - lost, dead.clone()));
            let bytes: usize = written.iter().map(|(name, value)| "x-amz-meta-".len() + name.len() + value.len()).sum();
            prop_assert!(bytes <= METADATA_MAX_BYTES, "{bytes}");
            let read = found(&written);
            prop_assert_eq!(read.total_jobs, Some(u32::MAX));
            for places in &dead {
                let is_covered = |list: &[Range<u32>]| list.iter().any(|r| r.start <= places.start && places.end <= r.end);
                prop_assert!(is_covered(&read.dead) || is_covered(&read.unsure), "{places:?}");
            }
            for places in &read.dead {
                prop_assert!(dead.contains(places), "only what is dead is called dead: {places:?}");
            }
        }
    }
}
