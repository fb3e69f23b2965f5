//! Percentiles of a histogram over an interval.

use prometheus::proto::Histogram;

/// The observations between two states of a histogram.
#[derive(Debug, PartialEq)]
pub(crate) struct Interval {
    /// The number of observations.
    pub(crate) count: u64,
    /// The finite upper bounds, ascending, each with the number of observations that do not exceed it.
    buckets: Vec<(f64, u64)>,
}

impl Interval {
    /// The observations since `before`. If the histogram was reset, those since the reset.
    pub(crate) fn between(before: Option<&Histogram>, after: &Histogram) -> Self {
        let before = before.filter(|before| is_continued(before, after));
        let counts_before =
            before.into_iter().flat_map(|before| before.get_bucket()).map(|bucket| bucket.cumulative_count());
        let counts_before = counts_before.chain(std::iter::repeat(0));
        let buckets = after.get_bucket().iter().zip(counts_before);
        Self {
            count: after.get_sample_count() - before.map_or(0, Histogram::get_sample_count),
            buckets: buckets
                .filter(|(bucket, _)| bucket.upper_bound().is_finite())
                .map(|(bucket, before)| (bucket.upper_bound(), bucket.cumulative_count().saturating_sub(before)))
                .collect(),
        }
    }

    /// The value that the fraction `quantile` of the observations does not exceed, interpolated linearly within its bucket as
    /// `histogram_quantile` of Prometheus does. At most the largest finite bound. `None` without observations.
    pub(crate) fn percentile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * self.count as f64;
        let (largest, _) = *self.buckets.last().filter(|_| self.count > 0)?;
        let (mut lower, mut below) = (0.0, 0);
        for (upper, cumulative) in &self.buckets {
            if *cumulative as f64 >= rank && *cumulative > below {
                let position = (rank - below as f64) / (cumulative - below) as f64;
                return Some(lower + (upper - lower) * position);
            }
            (lower, below) = (*upper, *cumulative);
        }
        Some(largest)
    }
}

/// Whether `after` is a later state of the same histogram.
fn is_continued(before: &Histogram, after: &Histogram) -> bool {
    let (old, new) = (before.get_bucket(), after.get_bucket());
    before.get_sample_count() <= after.get_sample_count()
        && old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| old.upper_bound().total_cmp(&new.upper_bound()).is_eq())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::HistogramOpts;
    use prometheus::core::Metric;

    fn histogram(values: &[f64]) -> Histogram {
        let options = HistogramOpts::new("a", "a").buckets(vec![1.0, 2.0, 4.0]);
        let histogram = prometheus::Histogram::with_opts(options).unwrap();
        values.iter().for_each(|value| histogram.observe(*value));
        histogram.metric().get_histogram().clone()
    }

    fn percentiles(before: &[f64], after: &[f64]) -> [Option<f64>; 3] {
        let before = histogram(before);
        let interval = Interval::between(Some(&before), &histogram(after));
        [0.5, 0.9, 1.0].map(|quantile| interval.percentile(quantile))
    }

    #[test]
    fn percentiles_are_interpolated_within_their_bucket() {
        assert_eq!(percentiles(&[], &[0.5; 10]), [Some(0.5), Some(0.9), Some(1.0)]);
        assert_eq!(percentiles(&[], &[0.5, 0.5, 3.0, 3.0]), [Some(1.0), Some(3.6), Some(4.0)]);
    }

    #[test]
    fn observations_before_the_interval_do_not_count() {
        assert_eq!(percentiles(&[3.0; 1000], &[&[3.0; 1000][..], &[0.5; 10]].concat())[2], Some(1.0));
        assert_eq!(percentiles(&[3.0], &[3.0]), [None; 3]);
    }

    #[test]
    fn observations_beyond_the_largest_bound_have_that_bound() {
        assert_eq!(percentiles(&[], &[0.5, 100.0, 100.0, 100.0]), [Some(4.0); 3]);
    }

    #[test]
    fn a_histogram_that_was_reset_counts_from_the_reset() {
        let interval = Interval::between(Some(&histogram(&[3.0; 9])), &histogram(&[0.5; 4]));
        assert_eq!((interval.count, interval.percentile(1.0)), (4, Some(1.0)));
        assert_eq!(Interval::between(Some(&Histogram::default()), &histogram(&[0.5])).count, 1);
        let interval = Interval::between(None, &Histogram::default());
        assert_eq!((interval.count, interval.percentile(0.5)), (0, None));
    }
}
