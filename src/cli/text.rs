//! Text for terminals: untrusted text made harmless, numbers with units, and tables. Pure.

use std::fmt::Write;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Replaces what a terminal or a reader could misunderstand.
const REPLACEMENT: char = '\u{fffd}';

/// Replaces control characters, which could move the cursor or change settings of the terminal (ECMA-48), and characters
/// that are invisible or reverse the direction of text. Tenants, details and ids come from clients.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_invisible(c) { REPLACEMENT } else { c }).collect()
}

/// JSON with the same characters as escapes, so that a terminal shows it as it is. Control characters below U+0020 are white
/// space between its tokens, because in strings JSON has them as escapes.
pub(crate) fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c >= ' ' && c.is_control() || is_invisible(c) {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| text += &format!("\\u{unit:04x}"));
        } else {
            text.push(c);
        }
    }
    text
}

/// Zero-width characters, bidirectional controls (UAX #9), line and paragraph separators, and tags.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// The columns that printable text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The longest start of printable text that takes at most `columns`.
pub(crate) fn clipped(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or_default();
        if used > columns {
            return text.get(..at).unwrap_or_default();
        }
    }
    text
}

/// A whole number with separators: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate or another number that is seldom whole: with two digits below 10, with one below 100.
pub(crate) fn decimal(number: f64) -> String {
    match number {
        n if !n.is_finite() => "-".to_owned(),
        n if n.abs() >= 99.95 => count(n.abs().round() as u64),
        n if n.abs() >= 9.995 => format!("{n:.1}"),
        0.0 => "0".to_owned(),
        n => format!("{n:.2}"),
    }
}

/// `512 B`, `1.5 KiB`, `8.0 MiB`.
pub(crate) fn bytes(number: f64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if !number.is_finite() {
        return "-".to_owned();
    }
    let mut scaled = number;
    let mut unit = "B";
    for next in UNITS {
        if scaled < 1023.95 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, next);
    }
    if unit == "B" { format!("{scaled:.0} B") } else { format!("{scaled:.1} {unit}") }
}

/// A duration of seconds, in at most two units: `850 us`, `12.3 ms`, `4.2 s`, `3m 5s`, `2d 4h`.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "-".to_owned(),
        0.0 => "0 s".to_owned(),
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s => long(s as u64),
    }
}

fn long(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// A duration, as [`seconds`] shows it.
pub(crate) fn duration(duration: Duration) -> String {
    seconds(duration.as_secs_f64())
}

/// One of something is named by `singular`, several by its plural with `s`.
pub(crate) fn plural(number: u64, singular: &str) -> String {
    format!("{} {singular}{}", count(number), if number == 1 { "" } else { "s" })
}

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of printable cells as lines with aligned columns, two spaces apart.
pub(crate) fn table(align: &[Align], rows: &[Vec<String>]) -> Vec<String> {
    let widths: Vec<usize> = (0..align.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or_default())
        .collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for ((cell, align), column) in row.iter().zip(align).zip(&widths) {
            let pad = column.saturating_sub(width(cell));
            let (before, after) = if *align == Align::Right { (pad, 0) } else { (0, pad) };
            // Writing to a string does not fail.
            let _: std::fmt::Result = write!(line, "{:before$}{cell}{:after$}  ", "", "");
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_for_a_terminal_is_the_same_json_without_characters_that_control_it() {
        let evil = serde_json::json!({"a": "\u{9b}31m\u{7f}\u{202e}\u{e0041}\u{1b}ä\n"}).to_string();
        let text = printable_json(&evil);
        assert!(!text.contains(|c: char| c.is_control() || is_invisible(c)), "{text:?}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            serde_json::from_str::<serde_json::Value>(&evil).unwrap()
        );
        assert_eq!(printable_json("{\n \"a\": \"ä\"}"), "{\n \"a\": \"ä\"}");
    }

    #[test]
    fn no_character_that_controls_a_terminal_or_hides_text_is_kept() {
        let bad = "a\u{1b}[2J\u{7}b\r\n\tc\u{9b}31m\u{202e}d\u{200b}e\u{7f}\u{2028}\0";
        let shown = printable(bad);
        assert_eq!(
            shown,
            "a\u{fffd}[2J\u{fffd}b\u{fffd}\u{fffd}\u{fffd}c\u{fffd}31m\u{fffd}d\u{fffd}e\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(printable("Zürich 東京"), "Zürich 東京");
        for c in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| c.is_control()) {
            assert_eq!(printable(&c.to_string()), REPLACEMENT.to_string(), "{c:?}");
        }
    }

    #[test]
    fn text_is_clipped_by_columns_and_not_within_a_wide_character() {
        assert_eq!(clipped("abc", 2), "ab");
        assert_eq!(clipped("東京", 3), "東");
        assert_eq!(clipped("東京", 4), "東京");
        assert_eq!(clipped("", 0), "");
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([decimal(0.0), decimal(1.234), decimal(12.34), decimal(1234.5)], ["0", "1.23", "12.3", "1,235"]);
        assert_eq!([decimal(f64::NAN), decimal(9.999), decimal(99.99)], ["-", "10.0", "100"]);
        assert_eq!(
            [bytes(0.0), bytes(1023.0), bytes(1536.0), bytes(8_388_608.0)],
            ["0 B", "1023 B", "1.5 KiB", "8.0 MiB"]
        );
        assert_eq!(
            [seconds(0.000_85), seconds(0.0123), seconds(4.21), seconds(185.0)],
            ["850 us", "12.3 ms", "4.2 s", "3m 5s"]
        );
        assert_eq!([seconds(7260.0), seconds(190_000.0), seconds(f64::INFINITY)], ["2h 1m", "2d 4h", "-"]);
        assert_eq!([plural(1, "job"), plural(2000, "job")], ["1 job", "2,000 jobs"]);
    }

    #[test]
    fn columns_are_aligned_whatever_the_width_of_characters() {
        let rows = [["a", "1"], ["東京", "22"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&[Align::Left, Align::Right], &rows), ["a      1", "東京  22"]);
    }
}
