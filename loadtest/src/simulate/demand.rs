//! The requests that clients send in each second.

use anyhow::ensure;
use fastrand::Rng;
use serde::Deserialize;

use super::quantity::{PerMinute, Seconds};

/// A part `[load.NAME]` of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Shape {
    /// `base` at the start of each day, `peak` in its middle, and a sine between them.
    Day { base: PerMinute, peak: PerMinute, day: Seconds, duration: Seconds, noise: f64 },
    /// `peak` from `at` on.
    Step { base: PerMinute, peak: PerMinute, at: Seconds, duration: Seconds, noise: f64 },
    /// `peak` from `at` on for `length`.
    Spike { base: PerMinute, peak: PerMinute, at: Seconds, length: Seconds, duration: Seconds, noise: f64 },
    /// From `base` at `at` to `peak` after `length`, exponentially.
    Growth { base: PerMinute, peak: PerMinute, at: Seconds, length: Seconds, duration: Seconds, noise: f64 },
}

macro_rules! member {
    ($name:ident, $of:ty) => {
        fn $name(&mut self) -> &mut $of {
            match self {
                Self::Day { $name, .. }
                | Self::Step { $name, .. }
                | Self::Spike { $name, .. }
                | Self::Growth { $name, .. } => $name,
            }
        }
    };
}

impl Shape {
    member!(base, PerMinute);
    member!(peak, PerMinute);
    member!(duration, Seconds);
    member!(noise, f64);

    /// Replaces what is given.
    pub(crate) fn replace(&mut self, base: Option<PerMinute>, peak: Option<PerMinute>, duration: Option<Seconds>) {
        *self.base() = base.unwrap_or(*self.base());
        *self.peak() = peak.unwrap_or(*self.peak());
        *self.duration() = duration.unwrap_or(*self.duration());
    }

    pub(crate) fn seconds(&self) -> u32 {
        self.clone().duration().0
    }

    pub(crate) fn check(&self, name: &str) -> anyhow::Result<()> {
        let mut shape = self.clone();
        let (base, peak, duration, noise) = (*shape.base(), *shape.peak(), *shape.duration(), *shape.noise());
        ensure!(
            base <= peak,
            "[load.{name}] base {base} is above peak {peak}: requests a minute rise from base to peak"
        );
        ensure!(duration.0 > 0, "[load.{name}] duration is 1s or longer");
        ensure!((0.0..1.0).contains(&noise), "[load.{name}] noise is a share from 0 to below 1");
        match self {
            Self::Day { day, .. } => ensure!(day.0 > 0, "[load.{name}] day is 1s or longer"),
            Self::Step { at, .. } => ensure!(*at < duration, "[load.{name}] at is not before the end (duration)"),
            Self::Spike { at, length, .. } | Self::Growth { at, length, .. } => {
                ensure!(*at < duration, "[load.{name}] at is not before the end (duration)");
                ensure!(length.0 > 0, "[load.{name}] length is 1s or longer");
            }
        }
        Ok(())
    }

    /// Requests a minute, without noise.
    fn rate(&self, now: u32) -> f64 {
        let since = |at: &Seconds| f64::from(now.saturating_sub(at.0));
        match self {
            Self::Day { base, peak, day, .. } => {
                let part = f64::from(now % day.0) / f64::from(day.0);
                base.0 + (peak.0 - base.0) * (1.0 - (part * std::f64::consts::TAU).cos()) / 2.0
            }
            Self::Step { base, peak, at, .. } => {
                if now < at.0 {
                    base.0
                } else {
                    peak.0
                }
            }
            Self::Spike { base, peak, at, length, .. } => {
                if now >= at.0 && now - at.0 < length.0 {
                    peak.0
                } else {
                    base.0
                }
            }
            Self::Growth { base, peak, at, length, .. } => {
                let part = (since(at) / f64::from(length.0)).min(1.0);
                base.0 * (peak.0 / base.0).powf(part)
            }
        }
    }
}

/// The requests of one second after the other. The same seed gives the same requests.
#[derive(Debug)]
pub(super) struct Demand<'s> {
    shape: &'s Shape,
    noise: f64,
    random: Rng,
    /// The fraction of a request that is left for the next second.
    rest: f64,
}

impl<'s> Demand<'s> {
    pub(super) fn new(shape: &'s Shape, seed: u64) -> Self {
        Self { shape, noise: *shape.clone().noise(), random: Rng::with_seed(seed), rest: 0.0 }
    }

    /// Requests of the second `now`.
    pub(super) fn second(&mut self, now: u32) -> u64 {
        let deviation = 1.0 + self.noise * (2.0 * self.random.f64() - 1.0);
        let due = self.shape.rate(now) / 60.0 * deviation + self.rest;
        self.rest = due.fract();
        due as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> PerMinute {
        text.parse().unwrap()
    }

    fn spike(noise: f64) -> Shape {
        let (at, length, duration) = (Seconds(10), Seconds(5), Seconds(60));
        Shape::Spike { base: rate("60"), peak: rate("600"), at, length, duration, noise }
    }

    #[test]
    fn each_shape_has_its_rates() {
        let (base, peak, duration, noise) = (rate("1M"), rate("1B"), Seconds(100), 0.0);
        let day = Shape::Day { base, peak, day: Seconds(100), duration, noise };
        assert_eq!([day.rate(0), day.rate(50), day.rate(100)], [1e6, 1e9, 1e6]);
        let step = Shape::Step { base, peak, at: Seconds(10), duration, noise };
        assert_eq!([step.rate(9), step.rate(10), step.rate(99)], [1e6, 1e9, 1e9]);
        let growth = Shape::Growth { base, peak, at: Seconds(10), length: Seconds(30), duration, noise };
        let rates = [9, 20, 40, 99].map(|now| growth.rate(now).round());
        assert_eq!(rates, [1e6, 1e7, 1e9, 1e9]);
        assert_eq!([9, 10, 14, 15].map(|now| spike(0.0).rate(now)), [60.0, 600.0, 600.0, 60.0]);
    }

    #[test]
    fn fractions_of_requests_are_not_lost_and_a_seed_repeats_the_noise() {
        let shape =
            Shape::Step { base: rate("90"), peak: rate("90"), at: Seconds(1), duration: Seconds(60), noise: 0.0 };
        let mut demand = Demand::new(&shape, 1);
        assert_eq!((0..60).map(|now| demand.second(now)).sum::<u64>(), 90);
        let noisy = spike(0.5);
        let requests = |seed| {
            let mut demand = Demand::new(&noisy, seed);
            (0..60).map(|now| demand.second(now)).collect::<Vec<_>>()
        };
        assert_eq!(requests(7), requests(7));
        assert_ne!(requests(7), requests(8));
    }
}
