//! A distribution of latencies as a curve, closer the further out it gets.

use serde::{Deserialize, Serialize};

use crate::load::Latencies;

/// Points to each nine: from 90% to 99%, from 99% to 99.9%.
const STEPS: u32 = 16;

/// The curve goes out to 99.999%.
const NINES: u32 = 5;

/// Percentiles and the times that so many did not exceed, in microseconds. It ends where there is no request for the
/// next point, or at 99.999%; it is empty if there were none at all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve(pub Vec<(f64, u64)>);

impl Curve {
    pub(super) fn of(latencies: &Latencies) -> Self {
        let count = latencies.count() as f64;
        let beyond = |remain: &f64| remain * count >= 1.0;
        let points = remains().filter(beyond).map(|remain| {
            // To nine digits: 99.9 and not 99.90000000000001.
            let share = ((1.0 - remain) * 1e9).round() / 1e9;
            ((share * 1e11).round() / 1e9, latencies.quantile(share))
        });
        Self(points.collect())
    }

    /// The times by nines: 0 at 0%, 1 at 90%, 2 at 99%, and so on.
    pub(super) fn by_nines(&self) -> impl Iterator<Item = (f64, u64)> {
        self.0.iter().map(|(percent, micros)| (nines(*percent), *micros))
    }
}

/// Where a percentile lies on a logarithmic axis of what remains beyond it.
pub(super) fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).max(10_f64.powi(-9)).log10()
}

/// The shares beyond each point, falling from 1: sixteen steps to a nine, and the median.
fn remains() -> impl Iterator<Item = f64> {
    (0..=STEPS * NINES).flat_map(|step| {
        let remain = 10_f64.powf(-f64::from(step) / f64::from(STEPS));
        // The median lies between the fourth and the fifth.
        std::iter::once(remain).chain((step == 4).then_some(0.5))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn curve(times: impl IntoIterator<Item = u64>) -> Curve {
        let mut tally = crate::load::Tally::new().unwrap();
        for micros in times {
            tally.accepted.record(Duration::from_micros(micros));
        }
        Curve::of(&tally.accepted)
    }

    #[test]
    fn a_nine_is_one_step_of_the_axis() {
        for (percent, expected) in [(0.0, 0.0), (90.0, 1.0), (99.0, 2.0), (99.9, 3.0), (99.999, 5.0), (100.0, 9.0)] {
            assert!((nines(percent) - expected).abs() < 1e-6, "{percent}");
        }
    }

    #[test]
    fn the_curve_has_the_round_percentiles_and_rises() {
        let Curve(points) = curve(1..=200_000);
        for percent in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999] {
            let (_, micros) = points.iter().find(|(at, _)| *at == percent).unwrap();
            let expected = percent * 2_000.0;
            assert!((*micros as f64 - expected).abs() <= 1.0_f64.max(expected * 2e-3), "{percent}: {micros}");
        }
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{points:?}");
    }

    #[test]
    fn it_does_not_go_further_than_there_are_requests() {
        assert_eq!(curve([]).0, []);
        assert_eq!(curve([7]).0, [(0.0, 7)]);
        let Curve(points) = curve(1..=100);
        assert_eq!(points.last().unwrap().0, 99.0);
    }
}
