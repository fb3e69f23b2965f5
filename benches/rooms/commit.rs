//! Commits of a packed frame to a segment: in memory, and durably on the disk of the build directory.

use futures_util::FutureExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use loadtest::payload::DEFAULT_SIZE;
use millpond::config::{ObjectSettings, SpoolSettings};
use millpond::disk::RealDisk;
use millpond::segment::{Compression, FrameEncoder};
use millpond::spool::Spool;

use crate::sample::{Batch, now};

/// The size of a full segment.
const OBJECT_MAX_BYTES: usize = 8 << 20;
const COMPRESSION: Compression = Compression::Gzip;

/// Jobs of ten payloads.
#[divan::bench(args = [1, 10, 100], max_time = 2)]
fn disk(bencher: Bencher<'_, '_>, jobs: u32) {
    let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let settings = SpoolSettings { dir: folder.path().to_owned(), max_bytes: 1 << 30 };
    let objects = ObjectSettings {
        stored_interval: Duration::ZERO,
        max_bytes: OBJECT_MAX_BYTES,
        max_age: Duration::from_secs(60),
        stored_linger: Duration::from_millis(200),
        compression: COMPRESSION,
    };
    let (spool, _) = Spool::on_disk(&settings, &objects, Arc::new(RealDisk)).unwrap();
    run(bencher, &spool, jobs);
    spool.close();
}

/// Jobs of ten payloads.
#[divan::bench(args = [1, 10, 100], max_time = 1)]
fn memory(bencher: Bencher<'_, '_>, jobs: u32) {
    run(bencher, &Spool::in_memory(COMPRESSION), jobs);
}

/// A full segment is replaced, as in the dispatcher, but discarded.
fn run(bencher: Bencher<'_, '_>, spool: &Spool, jobs: u32) {
    let batch = Batch { payloads: 10, size: DEFAULT_SIZE };
    let lines: Vec<_> = (0..jobs).map(|number| batch.lines(number).bytes).collect();
    let mut frame = Vec::new();
    FrameEncoder::new(COMPRESSION).unwrap().pack(lines.iter().map(Vec::as_slice), &mut frame).unwrap();
    let open = || spool.open(now(), OBJECT_MAX_BYTES).unwrap();
    let discard = |segment| spool.seal(segment).into_iter().for_each(|sealed| spool.discard(sealed));
    let mut segment = open();
    let bencher = bencher.counter(ItemsCount::new(jobs)).counter(BytesCount::new(frame.len()));
    bencher.bench_local(|| {
        let packed = |out: &mut Vec<u8>| {
            out.extend_from_slice(&frame);
            Ok(())
        };
        // Only a commit to the broker waits without blocking.
        segment.commit(jobs, jobs * 10, packed).now_or_never().unwrap().unwrap();
        if segment.len() >= OBJECT_MAX_BYTES {
            discard(std::mem::replace(&mut segment, open()));
        }
    });
    discard(segment);
}
