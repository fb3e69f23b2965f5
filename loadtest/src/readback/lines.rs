//! One object, line by line.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::ledger::Ledger;
use crate::payload::{self, Payloads};

/// A line longer than this is no line: it bounds what a broken object can make this process take.
const MAX_LINE: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip,
    Zstd,
}

impl Codec {
    /// The lines of an object; frames that follow each other are read as one.
    fn reader(self, object: &[u8]) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(match self {
            Self::None => Box::new(object),
            Self::Gzip => Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(object))),
            Self::Zstd => Box::new(BufReader::with_capacity(64 << 10, zstd::Decoder::with_buffer(object)?)),
        })
    }
}

/// Books every line of an object, and an object that breaks off as one piece of garbage; returns the lines read.
pub(super) fn book(
    object: &[u8],
    codec: Codec,
    payloads: &Payloads,
    ledger: &mut Ledger,
    scratch: &mut Vec<u8>,
) -> u64 {
    let mut lines = 0;
    let whole = codec.reader(object).and_then(|mut reader| {
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            lines += 1;
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            match payload::of_line(line) {
                Some(payload) => ledger.see(payloads.identify(payload, scratch)),
                None => ledger.see_garbage(),
            }
        }
    });
    if whole.is_err() {
        ledger.see_garbage();
    }
    lines
}
