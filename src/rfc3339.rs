//! Times as text (RFC 3339), in UTC.

use std::time::SystemTime;

use time::OffsetDateTime;

/// The length of a time with milliseconds.
pub(crate) const MILLIS_BYTES: usize = 24;

/// `2026-11-20T13:00:00.123Z`. Written without `fmt`, since every batch has one.
pub(crate) fn with_millis(time: SystemTime) -> [u8; MILLIS_BYTES] {
    let time = OffsetDateTime::from(time);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, milli) = time.to_hms_milli();
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (field, value) in [
        (0..4, year.unsigned_abs()),
        (5..7, u32::from(u8::from(month))),
        (8..10, u32::from(day)),
        (11..13, u32::from(hour)),
        (14..16, u32::from(minute)),
        (17..19, u32::from(second)),
        (20..23, u32::from(milli)),
    ] {
        let digits = text.get_mut(field).unwrap_or_default().iter_mut().rev();
        digits.fold(value, |value, digit| {
            *digit = b'0' + (value % 10) as u8;
            value / 10
        });
    }
    text
}

/// `2026-11-20T13:00:00Z`.
pub(crate) fn with_seconds(time: SystemTime) -> String {
    let text = with_millis(time).first_chunk::<19>().map(|text| String::from_utf8_lossy(text).into_owned());
    text.unwrap_or_default() + "Z"
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_in_utc_with_or_without_milliseconds() {
        assert_eq!(with_seconds(UNIX_EPOCH), "1970-01-01T00:00:00Z");
        let time = UNIX_EPOCH + Duration::from_millis(1_795_732_628_999);
        assert_eq!(with_seconds(time), "2026-11-26T22:37:08Z");
        assert_eq!(&with_millis(time), b"2026-11-26T22:37:08.999Z");
    }
}
