//! The grammar of numbers, and the range that readers support.

use std::iter;

use memchr::{memchr, memchr2};

/// Every integer with at most this many digits has 64 bits.
const SAFE_DIGITS: usize = 18;
/// Every number with [`SAFE_DIGITS`] before the point and an exponent of at most this many digits is a finite double.
const SAFE_EXPONENT_DIGITS: usize = 2;
/// The limit of Spark's reader.
const MAX_BYTES: usize = 1000;
/// The decimal exponent of the largest double.
const DOUBLE_EXPONENT: i64 = 308;
/// The digits of 2^1024 - 2^970, halfway between the largest double and the next power of two. Numbers from here on are
/// rounded to infinity.
const INFINITE_FROM: &[u8] = concat!(
    "1797693134862315807937289714053034150799341327100378269361737789804449682927647509466490179775872070963",
    "3028641669288791094655554785194040263065748867150582068190890200070838367627385484581771153176447573027",
    "0069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792",
)
.as_bytes();
/// A larger exponent determines the range whatever the [`MAX_BYTES`] before it are.
const EXPONENT_DIGITS: usize = 6;

/// A scanned number.
#[derive(Debug)]
pub(super) struct Number {
    /// The offset after its last byte.
    pub(super) end: usize,
    /// Whether it has so many digits that [`out_of_range`] has to check it.
    pub(super) needs_range_check: bool,
}

/// Scans the number at `start`. The error is the offset of the first invalid byte.
pub(super) fn scan(bytes: &[u8], start: usize) -> Result<Number, usize> {
    let byte = |at: usize| bytes.get(at).copied();
    let digits = |mut at: usize| {
        while byte(at).is_some_and(|byte| byte.is_ascii_digit()) {
            at += 1;
        }
        at
    };
    let some_digits = |at: usize| match digits(at) {
        end if end > at => Ok(end),
        _ => Err(at),
    };
    let first = start + usize::from(byte(start) == Some(b'-'));
    // No digit follows a leading zero.
    let integer = if byte(first) == Some(b'0') { first + 1 } else { some_digits(first)? };
    let mut end = integer;
    if byte(end) == Some(b'.') {
        end = some_digits(end + 1)?;
    }
    let mut exponent_digits = 0;
    if let Some(b'e' | b'E') = byte(end) {
        let from = end + 1 + usize::from(matches!(byte(end + 1), Some(b'+' | b'-')));
        end = some_digits(from)?;
        exponent_digits = end - from;
    }
    let needs_range_check =
        integer - first > SAFE_DIGITS || exponent_digits > SAFE_EXPONENT_DIGITS || end - start > MAX_BYTES;
    Ok(Number { end, needs_range_check })
}

/// The reason why readers do not support a number; `None` if they do.
pub(super) fn out_of_range(number: &str) -> Option<String> {
    if number.len() > MAX_BYTES {
        return Some(format!("the number has more than {MAX_BYTES} characters: send it as a string"));
    }
    let digits = number.strip_prefix('-').unwrap_or(number).as_bytes();
    let (mantissa, exponent) = split(digits, memchr2(b'e', b'E', digits));
    let (integer, fraction) = split(mantissa, memchr(b'.', mantissa));
    if integer.len() == digits.len() {
        let fits = number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok();
        return (!fits).then(|| "the integer has more than 64 bits: send it as a string".to_owned());
    }
    is_infinite(integer, fraction, exponent)
        .then(|| "the number exceeds the range of 64-bit floating point: send it as a string".to_owned())
}

/// Splits `bytes` before and after the byte at `index`.
fn split(bytes: &[u8], index: Option<usize>) -> (&[u8], &[u8]) {
    let parts = index.and_then(|index| Some((bytes.get(..index)?, bytes.get(index + 1..)?)));
    parts.unwrap_or((bytes, &[]))
}

/// Whether a double with these parts is infinite. Parsing it would take many microseconds for a number that is halfway
/// between two doubles.
fn is_infinite(integer: &[u8], fraction: &[u8], exponent: &[u8]) -> bool {
    let is_below_one = integer == b"0";
    let zeros = match is_below_one {
        true => fraction.iter().take_while(|digit| **digit == b'0').count(),
        false => 0,
    };
    if is_below_one && zeros == fraction.len() {
        return false;
    }
    // The distance from the first non-zero digit to the digit before the point.
    let first = if is_below_one { -1 - zeros as i64 } else { integer.len() as i64 - 1 };
    match first + parse_exponent(exponent) {
        DOUBLE_EXPONENT => {
            let digits = integer.iter().skip(usize::from(is_below_one)).chain(fraction.iter().skip(zeros));
            digits.chain(iter::repeat(&b'0')).take(INFINITE_FROM.len()).ge(INFINITE_FROM)
        }
        other => other > DOUBLE_EXPONENT,
    }
}

/// The value of an exponent, or one whose size is out of range in the same direction.
fn parse_exponent(exponent: &[u8]) -> i64 {
    let (is_negative, digits) = match exponent {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    // With one digit more it is out of range.
    let digits = digits.iter().skip(zeros).take(EXPONENT_DIGITS + 1);
    let value = digits.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    if is_negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checked(number: &str) -> Option<String> {
        let scanned = scan(number.as_bytes(), 0).unwrap();
        assert_eq!(scanned.end, number.len());
        scanned.needs_range_check.then(|| out_of_range(number)).flatten()
    }

    #[test]
    fn numbers_outside_of_64_bits_are_out_of_range() {
        let in_range = [
            "0",
            "-0",
            "18446744073709551615",
            "-9223372036854775808",
            "1e308",
            "-1.7976931348623157e308",
            "1e-400",
            "0e999999999999999999999",
            "18446744073709551616.0",
            "1.5E+003",
        ];
        for number in in_range {
            assert_eq!(checked(number), None, "{number}");
        }
        let long = "1".repeat(4301);
        let fraction = format!("0.{long}");
        for (number, reason) in [
            ("18446744073709551616", "64 bits"),
            ("-9223372036854775809", "64 bits"),
            ("1e309", "floating point"),
            ("-1e400", "floating point"),
            ("1e99999999999999999999999", "floating point"),
            (&long, "1000 characters"),
            (&fraction, "1000 characters"),
        ] {
            assert!(checked(number).is_some_and(|actual| actual.contains(reason)), "{number}");
        }
        // The quick check never accepts a number that the full check rejects.
        for digits in 1..30 {
            let number = "9".repeat(digits);
            let scanned = scan(number.as_bytes(), 0).unwrap();
            assert!(scanned.needs_range_check || out_of_range(&number).is_none(), "{number}");
        }
    }

    #[test]
    fn the_range_of_usual_numbers_is_not_checked() {
        let longest = format!("0.{}", "1".repeat(MAX_BYTES - 2));
        assert_eq!(out_of_range(&longest), None);
        for number in ["-123456789012345678", "1.5e-07", "9E+99", &longest] {
            for before in [0, MAX_BYTES] {
                let text = " ".repeat(before) + number;
                assert!(!scan(text.as_bytes(), before).unwrap().needs_range_check, "{number} at {before}");
            }
        }
    }

    /// A number with a fraction or an exponent is rejected if and only if it is parsed to an infinite double.
    fn is_rejected_like_parsed(number: &str) -> Result<(), TestCaseError> {
        let scanned = scan(number.as_bytes(), 0).map_err(|at| TestCaseError::fail(format!("{number} at {at}")))?;
        let is_infinite = number.parse::<f64>().is_ok_and(f64::is_infinite);
        prop_assert_eq!(out_of_range(number).is_some(), is_infinite, "{}", number);
        prop_assert!(scanned.needs_range_check || !is_infinite, "{}", number);
        Ok(())
    }

    #[test]
    fn numbers_are_infinite_from_halfway_above_the_largest_double() {
        let halfway = std::str::from_utf8(INFINITE_FROM).unwrap();
        let (head, last) = halfway.split_at(halfway.len() - 1);
        let before = format!("{head}{}", last.parse::<u8>().unwrap() - 1);
        let (first, rest) = halfway.split_at(1);
        for (number, is_infinite) in [
            (format!("{halfway}.0"), true),
            (format!("{halfway}e0"), true),
            (format!("{before}.0"), false),
            (format!("{before}.9999"), false),
            (format!("-{first}.{rest}e308"), true),
            (format!("0.000{halfway}E+312"), true),
            (format!("0.000{halfway}E+0311"), false),
            (format!("0.000{halfway}e313"), true),
            (format!("{halfway}{}e-{}", "0".repeat(600), 600), true),
            (format!("{before}{}e-{}", "9".repeat(600), 600), false),
            (format!("0.{}1e700", "0".repeat(600)), false),
            (format!("{}e-999999999999999999999999999999", "9".repeat(900)), false),
            (format!("0.{}1e999999999999999999999999999999", "0".repeat(900)), true),
            ("1.7976931348623157e308".to_owned(), false),
            ("1.7976931348623158079e308".to_owned(), false),
            ("1.797693134862315808e308".to_owned(), true),
            ("2.4703282292062327208e-324".to_owned(), false),
            ("0.0e999999999999999999999".to_owned(), false),
        ] {
            assert_eq!(number.parse::<f64>().unwrap().is_infinite(), is_infinite, "{number}");
            assert_eq!(out_of_range(&number).is_some(), is_infinite, "{number}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_rejected_if_and_only_if_its_double_is_infinite(
            number in "-?(0|[1-9][0-9]{0,320})(\\.[0-9]{1,20}([eE][+-]?[0-9]{1,4})?|[eE][+-]?0{0,3}[0-9]{1,5})",
        ) {
            is_rejected_like_parsed(&number)?;
        }

        #[test]
        fn numbers_near_the_largest_double_are_rejected_like_parsed_ones(
            digits in 1..309_usize,
            other in "[0-9]{0,5}",
            point in 1..309_usize,
            zeros in 0..300_usize,
            by in -1..=1_i64,
        ) {
            let halfway = std::str::from_utf8(INFINITE_FROM).unwrap();
            let digits = format!("{}{other}", &halfway[..digits]);
            let point = point.min(digits.len());
            let (integer, fraction) = digits.split_at(point);
            is_rejected_like_parsed(&format!("{integer}.{fraction}0e{}", 309 - point as i64 + by))?;
            is_rejected_like_parsed(&format!("-0.{}{digits}e{}", "0".repeat(zeros), 309 + zeros as i64 + by))?;
        }
    }
}
