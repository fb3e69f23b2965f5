//! A body to lines, in each form.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use loadtest::batch;
use loadtest::payload::{DEFAULT_SIZE, Number, Payloads};
use millpond::decode::{Form, decode};

use crate::sample::{Batch, batches, meta};

#[divan::bench(args = batches(), max_time = 1)]
fn envelope(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, &batch.body(batch::Form::Envelope, 0), batch.payloads, Form::Json);
}

#[divan::bench(args = batches(), max_time = 1)]
fn array(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, &batch.body(batch::Form::Array, 0), batch.payloads, Form::Json);
}

#[divan::bench(args = batches(), max_time = 1)]
fn ndjson(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, &batch.body(batch::Form::Ndjson, 0), batch.payloads, Form::Ndjson);
}

/// The body is the payload.
#[divan::bench(args = [100, DEFAULT_SIZE, 1000, 10_000, 100_000], max_time = 1)]
fn object(bencher: Bencher<'_, '_>, size: usize) {
    let mut body = Vec::new();
    Payloads::new(7, size).write(Number { endpoint: 0, sequence: 0 }, &mut body);
    run(bencher, &body, 1, Form::Json);
}

fn run(bencher: Bencher<'_, '_>, body: &[u8], payloads: usize, form: Form) {
    let bencher = bencher.counter(ItemsCount::new(payloads)).counter(BytesCount::new(body.len()));
    bencher.bench(|| {
        let lines = decode(black_box(body), form, &meta(), |_| true).unwrap();
        assert_eq!(black_box(lines).payloads as usize, payloads);
    });
}
