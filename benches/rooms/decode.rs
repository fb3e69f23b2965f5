//! Decoding of a body to lines, in each form.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use loadtest::batch;
use loadtest::payload::DEFAULT_SIZE;
use millpond::decode::{self, BatchFormat, LinesPlan};

use crate::sample::{Batch, batches, limits, meta};

#[divan::bench(args = batches(), max_time = 1)]
fn envelope(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, &batch.bodies(batch::Form::Envelope), batch.payloads, BatchFormat::Json);
}

#[divan::bench(args = batches(), max_time = 1)]
fn array(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, &batch.bodies(batch::Form::Array), batch.payloads, BatchFormat::Json);
}

#[divan::bench(args = batches(), max_time = 1)]
fn ndjson(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, &batch.bodies(batch::Form::Ndjson), batch.payloads, BatchFormat::Ndjson);
}

/// The body is the payload.
#[divan::bench(args = [100, DEFAULT_SIZE, 1000, 10_000, 100_000], max_time = 1)]
fn object(bencher: Bencher<'_, '_>, size: usize) {
    let batch = Batch { payloads: 1, size };
    // A line of NDJSON is a JSON object.
    run(bencher, &batch.bodies(batch::Form::Ndjson), 1, BatchFormat::Json);
}

fn run(bencher: Bencher<'_, '_>, bodies: &[Vec<u8>], payloads: usize, form: BatchFormat) {
    let bytes = bodies.iter().map(Vec::len).sum::<usize>() / bodies.len();
    let mut bodies = bodies.iter().cycle();
    let bencher = bencher.counter(ItemsCount::new(payloads)).counter(BytesCount::new(bytes));
    bencher.bench_local(|| {
        let body = black_box(bodies.next().unwrap());
        let batch = decode::Batch::parse(body, form, &limits(body.len()), &mut |_| true).unwrap();
        let lines = LinesPlan::new(batch, &meta()).write();
        assert_eq!(black_box(lines).payloads as usize, payloads);
    });
}
