//! Times and sizes as people write them: `200ms`, `90s`, `5m`; `512`, `512KiB`, `8MiB`.

use std::time::Duration;

/// Reads a time: a number with `us`, `ms`, `s` or `m`, or a bare number of seconds.
///
/// # Errors
///
/// A sentence that says what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("{text:?} is no time: expected a number of us, ms, s or m, as 200ms or 90s")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no time: expected a number, as 200ms or 90s"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| format!("{text:?} is out of range"))
}

/// Reads a size in bytes: a whole number, alone or with `KiB`, `MiB` or `GiB`.
///
/// # Errors
///
/// A sentence that says what was expected.
pub fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let scale: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("{text:?} is no size: expected bytes, KiB, MiB or GiB, as 512 or 8MiB")),
    };
    let number: usize = number.parse().map_err(|_| format!("{text:?} is no size: expected a whole number"))?;
    number.checked_mul(scale).ok_or_else(|| format!("{text:?} is out of range"))
}

/// A size with the unit that leaves it below 1,024.
pub fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2} GiB")
}

/// A time in microseconds with the unit that reads best.
pub fn show_micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("290"), Ok(290));
        for wrong in ["", "ms", "1h", "-1s", "1.5.1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "1.5MiB", "8MB", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_times_are_shown_in_a_fitting_unit() {
        assert_eq!(show_size(12), "12 B");
        assert_eq!(show_size(8 << 20), "8.0 MiB");
        assert_eq!(show_size(3 << 30), "3.00 GiB");
        assert_eq!(show_micros(250), "250 us");
        assert_eq!(show_micros(2_500), "2.50 ms");
        assert_eq!(show_micros(2_500_000), "2.50 s");
    }
}
