//! Medians, and confidence intervals of ratios.

use std::fmt;

/// Student's t for a two-sided interval of 95%, by degrees of freedom from 1 on; beyond, the normal distribution's.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];
const T_BEYOND: f64 = 1.96;

/// A ratio with its confidence interval of 95%.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The ratio of the geometric means.
    pub ratio: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Of `b` to `a`, measured in turns: the n-th of each at about the same time, so that what slows down the machine for a
    /// time cancels out. The interval is that of the mean of the logarithms of the ratios. `None` with fewer than two
    /// pairs, or if a value is not above 0.
    pub fn paired(a: &[f64], b: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| b / a).collect();
        let (mean, variance) = log_moments(&ratios)?;
        let count = ratios.len() as f64;
        Some(Self::around(mean, (variance / count).sqrt(), count - 1.0))
    }

    /// Of `b` to `a`, measured at different times, by Welch's t-test on the logarithms.
    pub fn unpaired(a: &[f64], b: &[f64]) -> Option<Self> {
        let ((mean_a, variance_a), (mean_b, variance_b)) = (log_moments(a)?, log_moments(b)?);
        let (a, b) =
            ((variance_a / a.len() as f64, a.len() as f64 - 1.0), (variance_b / b.len() as f64, b.len() as f64 - 1.0));
        let error = a.0 + b.0;
        let freedom = error * error / (a.0 * a.0 / a.1 + b.0 * b.0 / b.1);
        Some(Self::around(mean_b - mean_a, error.sqrt(), if freedom.is_nan() { a.1 + b.1 } else { freedom }))
    }

    fn around(log: f64, error: f64, freedom: f64) -> Self {
        let t = T.get((freedom.floor() as usize).saturating_sub(1)).copied().unwrap_or(T_BEYOND);
        Self { ratio: log.exp(), low: (log - t * error).exp(), high: (log + t * error).exp() }
    }

    /// Whether a ratio of 1 is within it, which is to say that no difference is shown.
    pub fn spans_one(&self) -> bool {
        self.low <= 1.0 && self.high >= 1.0
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x{:.3} [{:.3}, {:.3}]", self.ratio, self.low, self.high)
    }
}

/// Mean and variance of the logarithms.
fn log_moments(values: &[f64]) -> Option<(f64, f64)> {
    let logs: Vec<f64> = values.iter().map(|value| value.ln()).collect();
    if logs.len() < 2 || logs.iter().any(|log| !log.is_finite()) {
        return None;
    }
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    Some((mean, logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0)))
}

/// The median, the lower of the two middle ones if their number is even.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_show_a_small_difference_that_the_spread_of_the_rounds_would_hide() {
        let (a, b) = ([10.0, 20.0, 40.0, 15.0], [11.0, 22.2, 43.8, 16.4]);
        let paired = Interval::paired(&a, &b).unwrap();
        assert!(!paired.spans_one() && (paired.ratio - 1.1).abs() < 0.01, "{paired}");
        assert!(Interval::unpaired(&a, &b).unwrap().spans_one());
        assert!(!Interval::unpaired(&[10.0, 10.1, 9.9], &[12.0, 12.1, 11.9]).unwrap().spans_one());
    }

    #[test]
    fn the_interval_is_that_of_students_t() {
        // Logarithms 0 and 0.1: the mean is 0.05, the error 0.05, and t is 12.706.
        let interval = Interval::paired(&[1.0, 1.0], &[1.0, 0.1_f64.exp()]).unwrap();
        let expected = [0.05, 0.05 - 12.706 * 0.05, 0.05 + 12.706 * 0.05].map(f64::exp);
        for (value, expected) in [interval.ratio, interval.low, interval.high].into_iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{interval}");
        }
    }

    #[test]
    fn without_two_values_above_0_there_is_no_interval() {
        assert_eq!(Interval::paired(&[1.0], &[2.0]), None);
        assert_eq!(Interval::paired(&[0.0, 1.0], &[1.0, 1.0]), None);
        assert_eq!(Interval::unpaired(&[1.0, 1.0], &[0.0, 1.0]), None);
        let same = Interval::unpaired(&[1.0, 1.0], &[2.0, 2.0]).unwrap();
        assert_eq!((same.low, same.high), (same.ratio, same.ratio));
        assert_eq!((median(&[3.0, 1.0, 2.0, 9.0]), median(&[])), (Some(2.0), None));
    }
}
