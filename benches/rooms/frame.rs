//! Compression of jobs to a frame, with each codec. Bytes per second are those of the lines.

use std::fmt;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use loadtest::payload::DEFAULT_SIZE;
use millpond::segment::{Compression, FrameEncoder};

use crate::sample::{Batch, UNPREDICTED_BYTES};

/// A number of jobs of `payloads` payloads each.
#[derive(Clone, Copy)]
struct Jobs {
    jobs: u32,
    payloads: usize,
}

impl fmt::Display for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs of {}", self.jobs, self.payloads)
    }
}

fn sizes() -> impl Iterator<Item = Jobs> {
    [1, 10].into_iter().flat_map(|payloads| [1, 10, 100, 1000].map(|jobs| Jobs { jobs, payloads }))
}

#[divan::bench(args = sizes(), max_time = 1)]
fn gzip(bencher: Bencher<'_, '_>, jobs: Jobs) {
    run(bencher, jobs, Compression::Gzip);
}

#[divan::bench(args = sizes(), max_time = 1)]
fn zstd(bencher: Bencher<'_, '_>, jobs: Jobs) {
    run(bencher, jobs, Compression::Zstd);
}

#[divan::bench(args = sizes(), max_time = 1)]
fn none(bencher: Bencher<'_, '_>, jobs: Jobs) {
    run(bencher, jobs, Compression::None);
}

fn run(bencher: Bencher<'_, '_>, Jobs { jobs, payloads }: Jobs, compression: Compression) {
    let batch = Batch { payloads, size: DEFAULT_SIZE };
    let jobs = jobs as usize;
    let frames = (UNPREDICTED_BYTES / (jobs * payloads * DEFAULT_SIZE)).max(1);
    let lines: Vec<_> = (0..).take(jobs * frames).map(|number| batch.lines(number).bytes).collect();
    let bytes = lines.iter().map(Vec::len).sum::<usize>() / frames;
    let mut frames = lines.chunks(jobs).cycle();
    let mut encoder = FrameEncoder::new(compression).unwrap();
    let mut frame = Vec::new();
    let bencher = bencher.counter(ItemsCount::new(jobs * payloads)).counter(BytesCount::new(bytes));
    bencher.bench_local(|| {
        frame.clear();
        encoder.pack(black_box(frames.next().unwrap()).iter().map(Vec::as_slice), &mut frame).unwrap();
        assert!(!black_box(&frame).is_empty());
    });
}
