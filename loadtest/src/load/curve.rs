//! When each arrival of a rate that changes is due: when the integral of the rate reaches its number. Nothing is added up
//! from tick to tick, so no arrival is rounded away, however long the load and however late the look.

use std::time::Duration;

use super::rate::Rate;

/// Straight pieces that follow each other without a gap; the last one has no end.
#[derive(Debug, Clone)]
pub(super) struct Curve(Vec<Piece>);

/// All times in seconds, all rates in arrivals a second.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: f64,
    rate: f64,
    /// By which the rate changes in a second.
    slope: f64,
    /// Arrivals up to `start`.
    before: f64,
}

impl Curve {
    /// The curve of a rate over a load of this duration. What has no end stays at its last rate.
    pub(super) fn new(rate: Rate, duration: Option<Duration>) -> Self {
        let end = duration.map_or(f64::INFINITY, |duration| duration.as_secs_f64());
        let slope = if rate.from == rate.to || end == 0.0 { 0.0 } else { (rate.to - rate.from) / end };
        let plain = |at: f64| if at < end { (at, rate.from + slope * at, slope) } else { (at, rate.to, 0.0) };
        let mut corners = vec![plain(0.0)];
        if let Some(spike) = rate.spike {
            let (at, over) = (spike.at.as_secs_f64(), (spike.at + spike.length).as_secs_f64());
            corners.extend([(at, spike.rate, 0.0), plain(over)]);
        }
        if end.is_finite() {
            corners.push(plain(end));
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for (start, rate, slope) in corners {
            let before = pieces.last().map_or(0.0, |last| last.arrivals(start));
            pieces.push(Piece { start, rate, slope, before });
        }
        Self(pieces)
    }

    /// When the arrival of this number, from 1, is due, in seconds; `None` if it never is.
    pub(super) fn due(&self, number: u64) -> Option<f64> {
        let number = number as f64;
        let piece = self.0.iter().rev().find(|piece| piece.before < number)?;
        let more = number - piece.before;
        // The root of rate * t + slope / 2 * t^2 = more, in the form that does not cancel.
        let root = (piece.rate * piece.rate + 2.0 * piece.slope * more).max(0.0).sqrt();
        let time = piece.start + 2.0 * more / (piece.rate + root);
        time.is_finite().then_some(time)
    }
}

impl Piece {
    fn arrivals(&self, time: f64) -> f64 {
        let time = time - self.start;
        self.before + (self.rate + self.slope * time / 2.0) * time
    }
}

#[cfg(test)]
mod tests {
    use super::super::rate::Spike;
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// How many arrivals there are up to a time, the last of them in part: the integral that `due` inverts.
    fn arrivals(curve: &Curve, time: f64) -> f64 {
        curve.0.iter().rev().find(|piece| piece.start <= time).unwrap().arrivals(time)
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn a_steady_rate_has_evenly_spaced_arrivals_for_ever() {
        let curve = Curve::new(Rate::steady(250.0), None);
        assert!(close(arrivals(&curve, 4.0), 1_000.0));
        assert!(close(curve.due(1).unwrap(), 0.004));
        assert!(close(curve.due(1_000_000).unwrap(), 4_000.0));
    }

    #[test]
    fn a_ramp_has_the_arrivals_of_its_mean_and_goes_on_at_its_end() {
        for (from, to) in [(1_000.0, 20_000.0), (20_000.0, 1_000.0), (0.0, 20_000.0)] {
            let curve = Curve::new(Rate { from, to, spike: None }, Some(seconds(10)));
            assert!(close(arrivals(&curve, 10.0), (from + to) * 5.0));
            assert!(close(arrivals(&curve, 11.0), (from + to) * 5.0 + to));
        }
    }

    #[test]
    fn a_spike_takes_the_place_of_the_rate_and_the_ramp_goes_on_behind_it() {
        let spike = Some(Spike { rate: 5_000.0, at: seconds(4), length: seconds(2) });
        let curve = Curve::new(Rate { from: 0.0, to: 1_000.0, spike }, Some(seconds(10)));
        assert!(close(arrivals(&curve, 4.0), 800.0));
        assert!(close(arrivals(&curve, 6.0), 10_800.0));
        assert!(close(arrivals(&curve, 10.0), 10_800.0 + 3_200.0));
    }

    #[test]
    fn every_arrival_is_due_when_the_integral_reaches_it() {
        let spike = Some(Spike { rate: 300.0, at: seconds(3), length: seconds(1) });
        for rate in [
            Rate::steady(77.0),
            Rate { from: 10.0, to: 90.0, spike },
            Rate { from: 90.0, to: 0.0, spike },
            Rate { spike: Some(Spike { rate: 0.0, at: seconds(1), length: seconds(2) }), ..Rate::steady(50.0) },
        ] {
            let curve = Curve::new(rate, Some(seconds(8)));
            let mut last = 0.0;
            for number in 1..=arrivals(&curve, 8.0) as u64 {
                let due = curve.due(number).unwrap();
                assert!(due >= last, "{rate}: {number} is due before the one before it");
                assert!(close(arrivals(&curve, due), number as f64), "{rate}: {number} at {due}");
                last = due;
            }
        }
    }

    #[test]
    fn a_rate_that_has_come_down_to_nothing_brings_no_more() {
        let curve = Curve::new(Rate { from: 100.0, to: 0.0, spike: None }, Some(seconds(2)));
        assert!(curve.due(100).is_some());
        assert_eq!(curve.due(101), None);
    }
}
