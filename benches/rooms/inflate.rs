//! Decompression of a body. Bytes per second are those of the decompressed body.

use std::io::Write;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use loadtest::batch::Form;
use millpond::inflate::{Encoding, inflate};

use crate::sample::{Batch, batches};

#[divan::bench(args = batches(), max_time = 1)]
fn gzip(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, batch, Encoding::Gzip, |body| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    });
}

#[divan::bench(args = batches(), max_time = 1)]
fn deflate(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, batch, Encoding::Deflate, |body| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    });
}

#[divan::bench(args = batches(), max_time = 1)]
fn zstd(bencher: Bencher<'_, '_>, batch: Batch) {
    run(bencher, batch, Encoding::Zstd, |body| ::zstd::bulk::compress(body, 3).unwrap());
}

fn run(bencher: Bencher<'_, '_>, batch: Batch, encoding: Encoding, encode: impl Fn(&[u8]) -> Vec<u8>) {
    let bodies = batch.bodies(Form::Envelope);
    let bytes = bodies.iter().map(Vec::len).sum::<usize>() / bodies.len();
    let encoded: Vec<_> = bodies.iter().map(|body| encode(body)).collect();
    let mut encoded = encoded.iter().cycle();
    // Large enough for every body.
    let max = 10 << 20;
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let inflated = inflate(encoding, black_box(encoded.next().unwrap()), max).unwrap();
        assert!(black_box(inflated).len() >= bytes / 2);
    });
}
