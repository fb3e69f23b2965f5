//! One object, line by line.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::ledger::Ledger;
use crate::payload::{self, Identity, Number, Payloads};

/// A longer line is read as several: it limits the memory that a broken object can take.
const MAX_LINE: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip,
    Zstd,
}

impl Codec {
    /// The lines of an object; frames are concatenated.
    fn reader(self, object: &[u8]) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(match self {
            Self::None => Box::new(object),
            Self::Gzip => Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(object))),
            Self::Zstd => Box::new(BufReader::with_capacity(64 << 10, zstd::Decoder::with_buffer(object)?)),
        })
    }
}

/// Records every line of an object, and an object that breaks off as one more; returns the lines read. `each` gets the intact
/// lines of this run.
///
/// In a store that other clients use, what cannot be read is this run's if the object has lines of this run.
pub(super) fn record(
    object: &[u8],
    codec: Codec,
    payloads: &Payloads,
    is_shared: bool,
    ledger: &mut Ledger,
    each: &mut dyn FnMut(Number, &[u8]),
    scratch: &mut Vec<u8>,
) -> u64 {
    let (mut lines, mut ours, mut altered, mut others, mut unknown, mut unreadable) = (0, 0, 0, 0, 0, 0);
    let whole = codec.reader(object).and_then(|mut reader| {
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            lines += 1;
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            match payload::of_line(line).map(|payload| payloads.identify(payload, scratch)) {
                Some(Identity::Intact(number)) => {
                    ours += 1;
                    ledger.see(number);
                    each(number, line);
                }
                Some(Identity::Altered) => altered += 1,
                Some(Identity::OtherRun) => others += 1,
                Some(Identity::Unknown) => unknown += 1,
                None => unreadable += 1,
            }
        }
    });
    unreadable += u64::from(whole.is_err());
    let is_foreign = |is_foreign: bool, count: u64| if is_foreign { (count, 0) } else { (0, count) };
    let unknown = is_foreign(is_shared, unknown);
    let unreadable = is_foreign(is_shared && ours + altered == 0, unreadable);
    ledger.see_foreign(others + unknown.0 + unreadable.0);
    ledger.see_corrupt(altered + unknown.1 + unreadable.1);
    lines
}
