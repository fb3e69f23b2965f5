//! Quantiles of a histogram between two readings.

use prometheus::Histogram;
use prometheus::core::Metric;

use super::model::Quantiles;

/// The cumulative counts of a histogram's buckets at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Buckets {
    /// Upper bound, and the observations up to it.
    counts: Vec<(f64, u64)>,
    total: u64,
}

impl Buckets {
    pub(super) fn of(histogram: Option<&Histogram>) -> Self {
        let Some(histogram) = histogram else { return Self::default() };
        let metric = histogram.metric();
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Self {
            counts: buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
            total: histogram.get_sample_count(),
        }
    }

    /// The quantiles of what was observed since `before`.
    pub(super) fn since(&self, before: &Self) -> Quantiles {
        let count = self.total.saturating_sub(before.total);
        let old = before.counts.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
        let counts: Vec<_> =
            self.counts.iter().zip(old).map(|((bound, count), old)| (*bound, count.saturating_sub(old))).collect();
        let quantile = |share| quantile(&counts, count, share);
        Quantiles { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), count }
    }
}

/// The value below which `share` of the observations are, with linear interpolation in its bucket, as Prometheus's
/// `histogram_quantile` does it. Beyond the last bound it is that bound.
fn quantile(counts: &[(f64, u64)], total: u64, share: f64) -> Option<f64> {
    if total == 0 {
        return None;
    }
    let rank = share * total as f64;
    let (mut lower, mut below) = (0.0, 0);
    for &(upper, count) in counts.iter().filter(|(upper, _)| upper.is_finite()) {
        if count as f64 >= rank && count > below {
            return Some(lower + (upper - lower) * (rank - below as f64) / (count - below) as f64);
        }
        (lower, below) = (upper, count);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    #[test]
    fn quantiles_are_of_what_was_observed_between_two_readings() {
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "h").buckets(vec![1.0, 2.0, 4.0])).unwrap();
        (0..1000).for_each(|_| histogram.observe(0.5));
        let before = Buckets::of(Some(&histogram));
        let none = before.since(&before);
        assert_eq!((none.p50, none.count), (None, 0));
        (0..100).for_each(|_| histogram.observe(3.0));
        let quantiles = Buckets::of(Some(&histogram)).since(&before);
        assert_eq!((quantiles.p50, quantiles.p90, quantiles.count), (Some(3.0), Some(3.8), 100));
        // Half of them beyond the last bound.
        (0..100).for_each(|_| histogram.observe(9.0));
        let quantiles = Buckets::of(Some(&histogram)).since(&before);
        assert_eq!((quantiles.p50, quantiles.p99), (Some(4.0), Some(4.0)));
    }
}
