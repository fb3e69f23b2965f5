//! Numbers: their grammar, and those that readers cannot hold.

use std::iter;

use memchr::{memchr, memchr2};

/// A number of at most so many digits before the point, and none of them an exponent's, is within 64 bits.
const SAFE_DIGITS: usize = 18;
/// An exponent of so many digits leaves a number of [`SAFE_DIGITS`] within a double.
const SAFE_EXPONENT_DIGITS: usize = 2;
/// Spark's reader takes longer numbers for damage.
const MAX_BYTES: usize = 1000;
/// The decimal exponent of the largest double.
const DOUBLE_EXPONENT: i64 = 308;
/// The digits of 2^1024 - 2^970, halfway between the largest double and the next power of two. From here on a number
/// is rounded to infinity.
const INFINITE_FROM: &[u8] = concat!(
    "1797693134862315807937289714053034150799341327100378269361737789804449682927647509466490179775872070963",
    "3028641669288791094655554785194040263065748867150582068190890200070838367627385484581771153176447573027",
    "0069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792",
)
.as_bytes();
/// An exponent of more digits outweighs all digits that a number of [`MAX_BYTES`] may have before it.
const EXPONENT_DIGITS: usize = 6;

/// A number that was scanned.
#[derive(Debug)]
pub(super) struct Number {
    /// Behind its last byte.
    pub(super) end: usize,
    /// Whether its form alone says that every reader can hold it.
    pub(super) is_plain: bool,
}

/// The number at `start`; else where its grammar breaks.
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
    // A leading zero stands alone.
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
    let is_plain =
        integer - first <= SAFE_DIGITS && exponent_digits <= SAFE_EXPONENT_DIGITS && end - start <= MAX_BYTES;
    Ok(Number { end, is_plain })
}

/// Why readers cannot hold a number, if they cannot.
pub(super) fn trouble(number: &str) -> Option<String> {
    if number.len() > MAX_BYTES {
        return Some(format!("a number of more than {MAX_BYTES} characters: send it as a string"));
    }
    let digits = number.strip_prefix('-').unwrap_or(number).as_bytes();
    let (mantissa, exponent) = halves(digits, memchr2(b'e', b'E', digits));
    let (integer, fraction) = halves(mantissa, memchr(b'.', mantissa));
    if integer.len() == digits.len() {
        let fits = number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok();
        return (!fits).then(|| "an integer of more than 64 bits: send it as a string".to_owned());
    }
    is_infinite(integer, fraction, exponent)
        .then(|| "a number beyond 64-bit floating point: send it as a string".to_owned())
}

/// What stands before the byte at `at` and what behind it; without one, all of it and nothing.
fn halves(bytes: &[u8], at: Option<usize>) -> (&[u8], &[u8]) {
    let split = at.and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)));
    split.unwrap_or((bytes, &[]))
}

/// Whether a double of these parts is infinite. It is not parsed for that, which takes many microseconds for a number that
/// is halfway between two doubles; its digits are looked at once.
fn is_infinite(integer: &[u8], fraction: &[u8], exponent: &[u8]) -> bool {
    let is_below_one = integer == b"0";
    let zeros = match is_below_one {
        true => fraction.iter().take_while(|digit| **digit == b'0').count(),
        false => 0,
    };
    if is_below_one && zeros == fraction.len() {
        return false;
    }
    // How far the first digit that is not zero stands from the digit before the point.
    let first = if is_below_one { -1 - zeros as i64 } else { integer.len() as i64 - 1 };
    match first + power(exponent) {
        DOUBLE_EXPONENT => {
            let digits = integer.iter().skip(usize::from(is_below_one)).chain(fraction.iter().skip(zeros));
            digits.chain(iter::repeat(&b'0')).take(INFINITE_FROM.len()).ge(INFINITE_FROM)
        }
        larger_or_smaller => larger_or_smaller > DOUBLE_EXPONENT,
    }
}

/// The number that an exponent spells, or one beyond all that matter.
fn power(exponent: &[u8]) -> i64 {
    let (is_negative, digits) = match exponent {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    // One digit more than count is beyond them all.
    let digits = digits.iter().skip(zeros).take(EXPONENT_DIGITS + 1);
    let power = digits.fold(0, |power, digit| power * 10 + i64::from(digit - b'0'));
    if is_negative { -power } else { power }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checked(number: &str) -> Option<String> {
        let scanned = scan(number.as_bytes(), 0).unwrap();
        assert_eq!(scanned.end, number.len());
        if scanned.is_plain { None } else { trouble(number) }
    }

    #[test]
    fn what_64_bits_hold_is_good_and_what_they_do_not_is_not() {
        let good = [
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
        for number in good {
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
            assert!(checked(number).is_some_and(|said| said.contains(reason)), "{number}");
        }
        // The grammar alone: a plain number is never one of those that would be refused.
        for digits in 1..30 {
            let number = "9".repeat(digits);
            let scanned = scan(number.as_bytes(), 0).unwrap();
            assert!(!scanned.is_plain || trouble(&number).is_none(), "{number}");
        }
    }

    /// A number with a fraction or an exponent is refused if and only if a double of it is infinite.
    fn is_refused_as_parsed(number: &str) -> Result<(), TestCaseError> {
        let scanned = scan(number.as_bytes(), 0).map_err(|at| TestCaseError::fail(format!("{number} at {at}")))?;
        let is_infinite = number.parse::<f64>().is_ok_and(f64::is_infinite);
        prop_assert_eq!(trouble(number).is_some(), is_infinite, "{}", number);
        prop_assert!(!scanned.is_plain || !is_infinite, "{}", number);
        Ok(())
    }

    #[test]
    fn a_number_is_infinite_from_halfway_beyond_the_largest_double() {
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
            assert_eq!(trouble(&number).is_some(), is_infinite, "{number}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_refused_if_and_only_if_a_double_of_it_is_infinite(
            number in "-?(0|[1-9][0-9]{0,320})(\\.[0-9]{1,20}([eE][+-]?[0-9]{1,4})?|[eE][+-]?0{0,3}[0-9]{1,5})",
        ) {
            is_refused_as_parsed(&number)?;
        }

        #[test]
        fn a_number_near_the_largest_double_is_refused_as_if_it_were_parsed(
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
            is_refused_as_parsed(&format!("{integer}.{fraction}0e{}", 309 - point as i64 + by))?;
            is_refused_as_parsed(&format!("-0.{}{digits}e{}", "0".repeat(zeros), 309 + zeros as i64 + by))?;
        }
    }
}
