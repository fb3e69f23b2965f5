//! CPU profiles in pprof's format: a gzipped protocol buffer, `perftools.profiles.Profile`, as
//! <https://github.com/google/pprof/blob/main/proto/profile.proto> describes it.
//!
//! The names of functions and threads are in it, and nothing of what the functions were called with.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::stacks::{CpuProfile, Stack};

/// Encodes a profile.
pub(crate) fn encode(profile: &CpuProfile) -> Vec<u8> {
    gzip(&message(profile)).unwrap_or_default()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn message(profile: &CpuProfile) -> Vec<u8> {
    let mut strings = Strings::new();
    let mut out = Message::default();
    let period = nanoseconds(profile.period.as_nanos());
    let samples = value_type(&mut strings, "samples", "count");
    let cpu = value_type(&mut strings, "cpu", "nanoseconds");
    out.message(1, &samples);
    out.message(1, &cpu);
    for stack in &profile.stacks {
        out.message(2, &sample(&mut strings, stack, period));
    }
    // Locations and functions have the same numbers, from 1: a location is a function, and no address.
    for (id, function) in (1..).zip(&profile.functions) {
        let mut line = Message::default();
        line.varint(1, id);
        let mut location = Message::default();
        location.varint(1, id);
        location.message(4, &line);
        out.message(4, &location);
        let mut encoded = Message::default();
        encoded.varint(1, id);
        encoded.varint(2, strings.index(&function.name));
        encoded.varint(3, strings.index(&function.symbol));
        out.message(5, &encoded);
    }
    let missed = (profile.missed > 0).then(|| strings.index(&format!("{} samples are missing", profile.missed)));
    for string in &strings.list {
        out.bytes(6, string.as_bytes());
    }
    let started = profile.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.varint(9, nanoseconds(started.as_nanos()));
    out.varint(10, nanoseconds(profile.duration.as_nanos()));
    out.message(11, &cpu);
    out.varint(12, period);
    if let Some(missed) = missed {
        out.varint(13, missed);
    }
    out.0
}

fn nanoseconds(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn value_type(strings: &mut Strings, name: &str, unit: &str) -> Message {
    let mut out = Message::default();
    out.varint(1, strings.index(name));
    out.varint(2, strings.index(unit));
    out
}

fn sample(strings: &mut Strings, stack: &Stack, period: u64) -> Message {
    let mut out = Message::default();
    out.packed(1, stack.frames.iter().map(|function| *function as u64 + 1));
    out.packed(2, [stack.samples, stack.samples * period]);
    let mut label = Message::default();
    label.varint(1, strings.index("thread"));
    label.varint(2, strings.index(&stack.thread));
    out.message(3, &label);
    out
}

/// The string table. Index 0 is the empty string.
struct Strings {
    list: Vec<String>,
    indices: HashMap<String, u64>,
}

impl Strings {
    fn new() -> Self {
        Self { list: vec![String::new()], indices: HashMap::from([(String::new(), 0)]) }
    }

    fn index(&mut self, string: &str) -> u64 {
        if let Some(index) = self.indices.get(string) {
            return *index;
        }
        let index = self.list.len() as u64;
        self.list.push(string.to_owned());
        self.indices.insert(string.to_owned(), index);
        index
    }
}

/// The encoded fields of a message.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u64, value: u64) {
        self.push(field << 3);
        self.push(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.push((field << 3) | 2);
        self.push(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn packed(&mut self, field: u64, values: impl IntoIterator<Item = u64>) {
        let mut packed = Self::default();
        values.into_iter().for_each(|value| packed.push(value));
        self.message(field, &packed);
    }

    fn push(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
