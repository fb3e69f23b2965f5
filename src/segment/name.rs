//! The names of segments: of their files in the spool, and in messages of the broker.
//!
//! ```text
//! <object's name>.seg                              open, or its process died before the seal
//! <object's name>.<jobs>-<payloads>-<bytes>.seg    sealed, with what was committed to it
//! ```
//!
//! A segment gets the second name when it is sealed, after its bytes are durable. So the counts in the name are true, and they
//! survive any damage to the bytes.

use std::fmt;
use std::str::FromStr;

use super::{Compression, SegmentId};

const SUFFIX: &str = ".seg";

/// The name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentName {
    /// Its id.
    pub id: SegmentId,
    /// The codec of its frames.
    pub compression: Compression,
    /// What was committed to it; none while it is open.
    pub committed: Option<Committed>,
}

/// What was committed to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Its jobs.
    pub jobs: u32,
    /// Their payloads.
    pub payloads: u32,
    /// The length of its file.
    pub bytes: usize,
}

impl SegmentName {
    /// Parses exactly what [`fmt::Display`] writes.
    pub fn parse(name: &str) -> Option<Self> {
        let (id, rest) = name.strip_suffix(SUFFIX)?.split_once('.')?;
        let id = SegmentId::from_str(id).ok()?;
        Compression::ALL.into_iter().find_map(|compression| {
            let committed = match rest.strip_prefix(compression.extension())? {
                "" => None,
                counts => Some(Committed::parse(counts.strip_prefix('.')?)?),
            };
            let found = Self { id, compression, committed };
            (found.to_string() == name).then_some(found)
        })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.compression.extension())?;
        if let Some(committed) = self.committed {
            write!(f, ".{committed}")?;
        }
        f.write_str(SUFFIX)
    }
}

impl fmt::Display for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, payloads, bytes } = self;
        write!(f, "{jobs}-{payloads}-{bytes}")
    }
}

impl Committed {
    /// Parses what [`fmt::Display`] writes; numbers may have leading zeros.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-');
        let found = Self {
            jobs: numbers.next()?.parse().ok()?,
            payloads: numbers.next()?.parse().ok()?,
            bytes: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_the_exact_name_is_parsed() {
        let id = SegmentId::new(SystemTime::now());
        let committed = Some(Committed { jobs: 3, payloads: 30, bytes: 4096 });
        for compression in Compression::ALL {
            for committed in [None, committed] {
                let name = SegmentName { id, compression, committed };
                assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
            }
        }
        assert_eq!(
            SegmentName { id, compression: Compression::Gzip, committed }.to_string(),
            format!("{id}.ndjson.gz.3-30-4096.seg")
        );
        for bad in [
            ".seg",
            ".ndjson",
            ".ndjson.seg.seg",
            ".ndjson.gz.3-30.seg",
            ".ndjson.gz.3-30-4096-1.seg",
            ".ndjson.03-30-4096.seg",
            ".ndjson.+3-30-4096.seg",
            ".ndjson.3-30-99999999999999999999999.seg",
            ".json.seg",
        ] {
            assert_eq!(SegmentName::parse(&format!("{id}{bad}")), None, "{bad}");
        }
        assert_eq!(SegmentName::parse("lock"), None);
    }
}
