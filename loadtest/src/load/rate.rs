//! How many requests a second are due, and how that changes over a load.
//!
//! `20000` is a steady rate, `1000..20000` one that rises (or falls) evenly over the load's duration, and `0` no pace: as
//! fast as responses arrive. A spike, `50000@10s+5s`, is another rate from 10 s on for 5 s.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::units;

/// Requests a second over all connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// At the beginning; 0 here and in `to` is as fast as responses arrive.
    pub from: f64,
    /// At the end of the duration.
    pub to: f64,
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
        Self { from: rate, to: rate, spike: None }
    }

    /// Whether there is no pace.
    pub fn is_unpaced(&self) -> bool {
        self.from == 0.0 && self.to == 0.0
    }

    /// Whether it fits a load of this duration.
    ///
    /// # Errors
    ///
    /// What does not fit.
    pub fn check(&self, duration: Option<Duration>) -> Result<(), String> {
        if self.from != self.to && duration.is_none() {
            return Err(format!("the rate {self} changes over the load's duration: give one"));
        }
        let Some(spike) = self.spike else { return Ok(()) };
        if self.is_unpaced() {
            return Err(format!("a spike of {spike} needs a rate: give one above 0"));
        }
        if duration.is_some_and(|duration| spike.at + spike.length > duration) {
            return Err(format!("the spike {spike} does not end before the load does"));
        }
        Ok(())
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = match text.split_once("..") {
            Some((from, to)) => (per_second(from)?, per_second(to)?),
            None => (per_second(text)?, per_second(text)?),
        };
        Ok(Self { from, to, spike: None })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_unpaced(), self.from == self.to) {
            (true, _) => write!(f, "unpaced")?,
            (false, true) => write!(f, "{}/s", self.from)?,
            (false, false) => write!(f, "{}..{}/s", self.from, self.to)?,
        }
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
    rate.ok_or_else(|| {
        format!("{text:?} is not a rate: expected requests a second, 0 or more, as 20000 or 1000..20000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rates_and_spikes_are_read_and_shown_alike() {
        for (text, shown) in [("0", "unpaced"), ("16667", "16667/s"), ("0.5", "0.5/s"), ("0..100", "0..100/s")] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), shown);
        }
        let spike: Spike = "50000@10s+500ms".parse().unwrap();
        assert_eq!(spike, Spike { rate: 50_000.0, at: 10 * SECOND, length: SECOND / 2 });
        assert_eq!(spike.to_string(), "50000@10s+0.5s");
    }

    #[test]
    fn what_cannot_be_read_is_rejected_with_what_was_expected() {
        for wrong in ["", "-1", "fast", "inf", "NaN", "1..", "..5", "1..2..3", "1-5"] {
            let message = wrong.parse::<Rate>().unwrap_err();
            assert!(message.contains("as 20000 or 1000..20000"), "{wrong}: {message}");
        }
        for wrong in ["", "5", "5@1s", "5+1s", "5@1s5s"] {
            assert!(wrong.parse::<Spike>().unwrap_err().contains("as 50000@10s+5s"), "{wrong}");
        }
        for wrong in ["x@1s+1s", "5@x+1s", "5@1s+x", "5@1d+1s"] {
            assert!(wrong.parse::<Spike>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_fits_the_duration_of_its_load() {
        let ramp: Rate = "10..20".parse().unwrap();
        assert!(ramp.check(None).unwrap_err().contains("10..20/s"));
        assert_eq!(ramp.check(Some(SECOND)), Ok(()));
        let spike: Option<Spike> = "50@3s+2s".parse().ok();
        let spiked = Rate { spike, ..Rate::steady(10.0) };
        assert_eq!(spiked.check(Some(5 * SECOND)), Ok(()));
        assert!(spiked.check(Some(4 * SECOND)).unwrap_err().contains("50@3s+2s"));
        assert!(Rate { spike, ..Rate::UNPACED }.check(None).is_err());
    }
}
