//! Times, sizes and rates in the files of a simulation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units;

/// A limit of every rate: a billion requests a minute.
pub(crate) const MAX_REQUESTS_PER_MINUTE: f64 = 1e9;

/// A limit of every time: a week.
pub(crate) const MAX_SECONDS: u32 = 7 * 24 * 3_600;

const SCALES: [(char, f64); 3] = [('k', 1e3), ('M', 1e6), ('B', 1e9)];

/// A time in whole seconds, such as `90s` or `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Seconds(pub(crate) u32);

/// A size in bytes, such as `8MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Bytes(pub(crate) u64);

/// Requests a minute, such as `1M`, `2.5M` or `1B`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub(crate) struct PerMinute(pub(crate) f64);

/// A part of the run, as `10m+5m`: its start and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

impl Span {
    pub(crate) fn contains(self, now: u32) -> bool {
        now >= self.start && now - self.start < self.length
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = units::duration(text)?;
        let seconds = u32::try_from(time.as_secs()).ok().filter(|seconds| *seconds <= MAX_SECONDS);
        let seconds = seconds.ok_or_else(|| format!("{text:?} is above 168h"))?;
        if time.subsec_nanos() > 0 {
            return Err(format!("{text:?}: the simulation advances by whole seconds"));
        }
        Ok(Self(seconds))
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        units::size(text).map(|bytes| Self(bytes as u64))
    }
}

impl FromStr for PerMinute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let scale = SCALES.iter().find_map(|(unit, factor)| Some((text.strip_suffix(*unit)?, *factor)));
        let (digits, factor) = scale.unwrap_or((text, 1.0));
        let number = digits.parse::<f64>().ok().filter(|_| digits.bytes().all(|byte| b"0123456789.".contains(&byte)));
        match number.map(|number| number * factor) {
            Some(rate) if (1.0..=MAX_REQUESTS_PER_MINUTE).contains(&rate) => Ok(Self(rate)),
            _ => Err(format!("{text:?}: expected requests a minute from 1 to 1B, such as 500k, 2.5M or 1B")),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: expected START+LENGTH, such as 10m+5m");
        let (start, length) = text.split_once('+').ok_or_else(wrong)?;
        Ok(Self { start: start.parse::<Seconds>()?.0, length: length.parse::<Seconds>()?.0 })
    }
}

impl fmt::Display for PerMinute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SCALES.iter().rev().find(|(_, factor)| self.0 >= *factor) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

macro_rules! from_text {
    ($($of:ty),*) => {
        $(impl TryFrom<String> for $of {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        })*
    };
}
from_text!(Seconds, Bytes, PerMinute);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_scale_and_a_limit() {
        let rates = [("1", 1.0), ("500k", 5e5), ("2.5M", 2.5e6), ("1B", 1e9)];
        assert!(rates.iter().all(|(text, rate)| text.parse() == Ok(PerMinute(*rate))));
        assert_eq!(
            ["2.5M", "1B", "500k", "7"].map(|text| text.parse::<PerMinute>().unwrap().to_string()),
            ["2.5M", "1B", "500k", "7"]
        );
        for wrong in ["", "0", "M", "1.1B", "-1M", "1e3", "inf", "NaN", "1 M"] {
            assert!(wrong.parse::<PerMinute>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!(("5m".parse(), "90s".parse()), (Ok(Seconds(300)), Ok(Seconds(90))));
        assert_eq!("168h".parse(), Ok(Seconds(MAX_SECONDS)));
        assert!(["200ms", "169h", "99999999h", "x"].iter().all(|wrong| wrong.parse::<Seconds>().is_err()));
        let span: Span = "10m+5m".parse().unwrap();
        assert_eq!([599, 600, 899, 900].map(|now| span.contains(now)), [false, true, true, false]);
        assert!("10m".parse::<Span>().is_err());
    }
}
