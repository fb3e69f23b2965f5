//! Times as text (RFC 3339), in UTC.

use std::fmt;
use std::time::SystemTime;

use time::OffsetDateTime;

/// Formats a time as `2026-11-20T13:00:00Z`, or with `{:.3}` as `2026-11-20T13:00:00.123Z`.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from(self.0);
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second, milli) = time.to_hms_milli();
        let month = u8::from(month);
        match f.precision() {
            None => write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"),
            Some(_) => write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_in_utc_with_or_without_milliseconds() {
        assert_eq!(Rfc3339(UNIX_EPOCH).to_string(), "1970-01-01T00:00:00Z");
        let time = UNIX_EPOCH + Duration::from_millis(1_795_732_628_999);
        assert_eq!(Rfc3339(time).to_string(), "2026-11-26T22:37:08Z");
        assert_eq!(format!("{:.3}", Rfc3339(time)), "2026-11-26T22:37:08.999Z");
    }
}
