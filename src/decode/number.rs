//! Numbers: their grammar, and those that readers cannot hold.

/// A number of at most so many digits before the point, and none of them an exponent's, is within 64 bits.
const SAFE_DIGITS: usize = 18;
/// An exponent of so many digits leaves a number of [`SAFE_DIGITS`] within a double.
const SAFE_EXPONENT_DIGITS: usize = 2;
/// Spark's reader takes longer numbers for damage.
const MAX_BYTES: usize = 1000;

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
    if !number.contains(['.', 'e', 'E']) {
        let fits = number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok();
        return (!fits).then(|| "an integer of more than 64 bits: send it as a string".to_owned());
    }
    let is_infinite = number.parse::<f64>().is_ok_and(f64::is_infinite);
    is_infinite.then(|| "a number beyond 64-bit floating point: send it as a string".to_owned())
}

#[cfg(test)]
mod tests {
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
}
