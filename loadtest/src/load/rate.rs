//! How many requests a second are due.
//!
//! `20000` is a steady rate, and `0` no pace: as fast as responses arrive. A spike, `50000@10s+5s`, is another rate from
//! 10 s on for 5 s.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::units;

/// Requests a second over all connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests a second; 0 is as fast as responses arrive.
    pub steady: f64,
    /// A time with another rate.
    pub spike: Option<Spike>,
}

/// A time with another rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// Requests a second.
    pub rate: f64,
    /// When it begins.
    pub at: Duration,
    /// How long it lasts.
    pub length: Duration,
}

impl Rate {
    /// As fast as responses arrive.
    pub const UNPACED: Self = Self::steady(0.0);

    /// The same rate all the time.
    pub const fn steady(rate: f64) -> Self {
        Self { steady: rate, spike: None }
    }

    /// Whether there is no pace.
    pub fn is_unpaced(&self) -> bool {
        self.steady == 0.0
    }

    /// Whether it fits a load of this duration.
    /// Errors: what does not fit.
    pub fn check(&self, duration: Option<Duration>) -> Result<(), String> {
        let Some(spike) = self.spike else { return Ok(()) };
        if self.is_unpaced() {
            return Err(format!("a spike of {spike} needs a rate: give one above 0"));
        }
        if duration.is_some_and(|duration| spike.at + spike.length > duration) {
            return Err(format!("the spike {spike} does not end before the load does"));
        }
        Ok(())
    }

    /// When the arrival of this number, from 1, is due, in seconds; `None` if it never is. Computed from the number, so that
    /// no rounding error adds up.
    pub(super) fn due(&self, number: u64) -> Option<f64> {
        let mut left = number as f64;
        let mut start = 0.0;
        if let Some(spike) = self.spike {
            let (at, length) = (spike.at.as_secs_f64(), spike.length.as_secs_f64());
            for (rate, length) in [(self.steady, at), (spike.rate, length)] {
                if left <= rate * length {
                    return Some(start + left / rate);
                }
                left -= rate * length;
                start += length;
            }
        }
        let due = start + left / self.steady;
        due.is_finite().then_some(due)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        per_second(text).map(Self::steady)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unpaced() { write!(f, "unpaced") } else { write!(f, "{}/s", self.steady) }?;
        self.spike.map_or(Ok(()), |spike| write!(f, " with a spike of {spike}"))
    }
}

impl FromStr for Spike {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('@').and_then(|(rate, when)| Some((rate, when.split_once('+')?)));
        let Some((rate, (at, length))) = parts else {
            return Err(format!("{text:?} is not a spike: expected RATE@START+LENGTH, as 50000@10s+5s"));
        };
        Ok(Self { rate: per_second(rate)?, at: units::duration(at)?, length: units::duration(length)? })
    }
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}s+{}s", self.rate, self.at.as_secs_f64(), self.length.as_secs_f64())
    }
}

fn per_second(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| format!("{text:?} is not a rate: expected requests a second, 0 or more, as 20000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spiked(rate: f64, spike: &str) -> Rate {
        Rate { spike: Some(spike.parse().unwrap()), ..Rate::steady(rate) }
    }

    #[test]
    fn rates_and_spikes_are_read_and_shown_alike() {
        for (text, shown) in [("0", "unpaced"), ("16667", "16667/s"), ("0.5", "0.5/s")] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), shown);
        }
        assert_eq!(spiked(5.0, "50000@10s+500ms").to_string(), "5/s with a spike of 50000@10s+0.5s");
        assert!(["", "-1", "fast", "inf", "NaN", "1..5"].iter().all(|wrong| wrong.parse::<Rate>().is_err()));
        for wrong in ["", "5", "5@1s", "5+1s", "5@1s5s", "x@1s+1s", "5@x+1s", "5@1s+x", "5@1d+1s"] {
            assert!(wrong.parse::<Spike>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_spike_ends_before_its_load_and_needs_a_rate() {
        let rate = spiked(10.0, "50@3s+2s");
        assert_eq!(rate.check(Some(5 * SECOND)), Ok(()));
        assert!(rate.check(Some(4 * SECOND)).unwrap_err().contains("50@3s+2s"));
        assert!(spiked(0.0, "50@3s+2s").check(None).is_err());
    }

    #[test]
    fn every_arrival_is_due_when_as_many_have_come() {
        let close = |rate: &Rate, number, due: f64| (rate.due(number).unwrap() - due).abs() < 1e-6;
        let steady = Rate::steady(250.0);
        assert!(close(&steady, 1, 0.004) && close(&steady, 1_000_000, 4_000.0));
        // 400 before the spike, 10,000 in it, and then the steady rate again.
        let spiked = spiked(100.0, "5000@4s+2s");
        for (number, due) in [(400, 4.0), (401, 4.0002), (10_400, 6.0), (10_500, 7.0)] {
            assert!(close(&spiked, number, due), "{number}");
        }
        let pause = Rate { spike: Some("0@1s+2s".parse().unwrap()), ..Rate::steady(50.0) };
        assert!(close(&pause, 50, 1.0) && close(&pause, 51, 3.02));
        assert_eq!(Rate::steady(0.0).due(1), None);
    }
}
