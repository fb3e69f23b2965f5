//! Times and sizes as the server's settings have them: `200ms`, `60s`, `5m`, `1h`; `512`, `512KiB`, `8MiB`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a time; a bare number is in seconds.
/// Errors: what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, &TIMES, 1_000)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?}: expected a time in seconds, or one such as 200ms, 60s, 5m or 1h"))
}

/// Reads a size; a bare number is in bytes.
/// Errors: what was expected.
pub fn size(text: &str) -> Result<usize, String> {
    scaled(text, &SIZES, 1)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("{text:?}: expected a size in bytes, or one such as 512KiB, 8MiB or 10GiB"))
}

/// A whole number with one of `units` behind it, in the smallest unit.
fn scaled(text: &str, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let with_unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (digits, factor) = with_unit.unwrap_or((text, bare));
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()?.checked_mul(factor)).flatten()
}

/// A size in the largest unit that keeps it at 1 or more.
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Counts by name, as `name: count, …`.
pub(crate) fn show_counts(of: &BTreeMap<impl Display, u64>) -> String {
    if of.is_empty() {
        return "none".to_owned();
    }
    of.iter().map(|(name, count)| format!("{name}: {count}")).collect::<Vec<_>>().join(", ")
}

/// A time of so many microseconds in the largest unit that keeps it at 1 or more.
pub fn show_micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_the_units_of_the_server() {
        let times = [("200ms", 200), ("7", 7_000), ("60s", 60_000), ("5m", 300_000), ("1h", 3_600_000)];
        assert!(times.iter().all(|(text, millis)| duration(text) == Ok(Duration::from_millis(*millis))));
        assert_eq!((size("8MiB"), size("290"), size("1B")), (Ok(8 << 20), Ok(290), Ok(1)));
        assert!(["", "ms", "1d", "-1s", "1.5s", "+1s"].iter().all(|wrong| duration(wrong).is_err()));
        assert!(["", "1.5MiB", "8MB", "99999999999GiB"].iter().all(|wrong| size(wrong).is_err()));
    }

    #[test]
    fn sizes_and_times_are_shown_in_a_fitting_unit() {
        assert_eq!([12, 8 << 20, 3 << 30].map(show_size), ["12 B", "8.0 MiB", "3.00 GiB"]);
        assert_eq!([250, 2_500, 2_500_000].map(show_micros), ["250 us", "2.50 ms", "2.50 s"]);
    }
}
