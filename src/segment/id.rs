//! The id of a segment, and the object's key that follows from it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use uuid::{ContextV7, Timestamp, Uuid};

use super::Compression;

/// Names a segment and its object: a UUIDv7 (RFC 9562, 5.7), whose first 48 bits are the milliseconds since 1970 at which the
/// segment was opened. Ids are unique in a fleet, so a repeated upload writes the same bytes to the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(Uuid);

impl SegmentId {
    /// A new id for a segment opened at `now`.
    pub fn new(now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Uuid::new_v7(Timestamp::from_unix(ContextV7::new(), since.as_secs(), since.subsec_nanos())))
    }

    /// The 16 bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// When the segment was opened, to the millisecond.
    pub fn opened_at(self) -> SystemTime {
        let millis = u64::try_from(self.0.as_u128() >> 80).unwrap_or_default();
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    /// `[prefix/]dt=YYYY-MM-DD/hr=HH/<id>.ndjson[.gz|.zst]`, with the time of the opening in UTC. It follows from the id, so a
    /// receipt is enough to find the object.
    pub fn key(self, prefix: &str, compression: Compression) -> String {
        let opened = OffsetDateTime::from(self.opened_at());
        let (year, month, day) = opened.to_calendar_date();
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!(
            "{prefix}{slash}dt={year:04}-{:02}-{day:02}/hr={:02}/{self}.{}",
            u8::from(month),
            opened.hour(),
            compression.extension()
        )
    }
}

/// The end of the year 9999, in milliseconds since 1970. A later date does not fit into a key.
const LAST_MILLI: u128 = 253_402_300_799_999;

/// The text is no segment id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a UUIDv7 with hyphens")]
pub struct InvalidSegmentId;

impl FromStr for SegmentId {
    type Err = InvalidSegmentId;

    /// Parses exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, InvalidSegmentId> {
        let id = Uuid::try_parse(text).map_err(|_| InvalidSegmentId)?;
        let is_dated = id.as_u128() >> 80 <= LAST_MILLI;
        let plain =
            is_dated && id.get_version_num() == 7 && text == id.hyphenated().encode_lower(&mut Uuid::encode_buffer());
        if plain { Ok(Self(id)) } else { Err(InvalidSegmentId) }
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_and_its_date_follow_from_the_id() {
        // 2026-11-20T13:59:59.999Z
        let opened = UNIX_EPOCH + Duration::from_millis(1_795_183_199_999);
        let id = SegmentId::new(opened);
        assert_eq!(id.opened_at(), opened);
        assert_eq!(id.key("", Compression::Gzip), format!("dt=2026-11-20/hr=13/{id}.ndjson.gz"));
        assert_eq!(id.key("a/b", Compression::Zstd), format!("a/b/dt=2026-11-20/hr=13/{id}.ndjson.zst"));
        assert_eq!(id.key("", Compression::None), format!("dt=2026-11-20/hr=13/{id}.ndjson"));
    }

    #[test]
    fn only_the_exact_text_of_an_id_is_parsed() {
        let id = SegmentId::new(SystemTime::now());
        assert_eq!(id.to_string().parse(), Ok(id));
        let last = "e677d21f-dbff-7fff-bfff-ffffffffffff".parse::<SegmentId>().unwrap();
        assert!(last.key("", Compression::None).starts_with("dt=9999-12-31/hr=23/"));
        assert_eq!("e677d21f-dc00-7fff-bfff-ffffffffffff".parse::<SegmentId>(), Err(InvalidSegmentId));
        let v4 = "6f1c2b1e-0a64-4c5b-9d0e-1f2a3b4c5d6e";
        for bad in ["", "x", v4, &id.to_string().to_uppercase(), &format!("{{{id}}}"), &id.to_string().replace('-', "")]
        {
            assert_eq!(bad.parse::<SegmentId>(), Err(InvalidSegmentId), "{bad}");
        }
    }

    #[test]
    fn ids_of_the_same_millisecond_differ() {
        let now = SystemTime::now();
        assert_ne!(SegmentId::new(now), SegmentId::new(now));
    }
}
