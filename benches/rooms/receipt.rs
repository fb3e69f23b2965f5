//! Receipts: parsing, writing, the key of the object, and the lookup of a segment.

use std::sync::Arc;

use divan::{Bencher, black_box};
use millpond::segment::{Compression, JobId, SegmentId};
use millpond::spool::{SegmentState, Spool};

use crate::sample::now;

const COMPRESSION: Compression = Compression::Gzip;

#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let text = JobId { segment: SegmentId::new(now()), index: 4711 }.to_string();
    bencher.bench(|| black_box(&text).parse::<JobId>().unwrap());
}

#[divan::bench]
fn write(bencher: Bencher<'_, '_>) {
    let job = JobId { segment: SegmentId::new(now()), index: 4711 };
    bencher.bench(|| black_box(job).to_string());
}

#[divan::bench]
fn key(bencher: Bencher<'_, '_>) {
    let id = SegmentId::new(now());
    bencher.bench(|| black_box(id).key("telemetry", COMPRESSION));
}

/// Looks up stored segments in turn.
#[divan::bench(args = [1, 100, 4096])]
fn find(bencher: Bencher<'_, '_>, segments: usize) {
    let spool = Spool::in_memory(COMPRESSION);
    let ids: Vec<_> = (0..segments)
        .map(|_| {
            let status = spool.open(now(), 0).unwrap().status;
            spool.segments().settle(&status, SegmentState::Stored { dead: Arc::default() });
            status.id()
        })
        .collect();
    let mut ids = ids.iter().cycle();
    bencher.bench_local(|| {
        let status = spool.segments().find(*ids.next().unwrap()).unwrap();
        assert!(status.state() != SegmentState::Dead);
    });
}
