//! Quantiles of a histogram between two readings.

use prometheus::Histogram;
use prometheus::core::Metric;
use prometheus::proto;

use super::model::Quantiles;
use crate::percentile::Interval;

/// A histogram at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Buckets(proto::Histogram);

impl Buckets {
    pub(super) fn of(histogram: Option<&Histogram>) -> Self {
        Self(histogram.map(|histogram| histogram.metric().get_histogram().clone()).unwrap_or_default())
    }

    /// The quantiles of what was observed since `before`.
    pub(super) fn since(&self, before: &Self) -> Quantiles {
        let interval = Interval::between(Some(&before.0), &self.0);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| interval.percentile(quantile));
        Quantiles { p50, p90, p99, count: interval.count }
    }
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
