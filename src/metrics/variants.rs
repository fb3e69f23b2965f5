//! Requests by variant. Each variant of the plan in force has series; a reload removes those of the others.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::REQUEST_SECONDS;
use super::label::{Label, RequestResult};
use super::registration::name;

/// What is counted of each variant.
#[derive(Debug)]
pub struct VariantMetrics {
    batches: IntCounterVec,
    seconds: HistogramVec,
    /// The variants that have series.
    names: Mutex<Vec<String>>,
}

impl VariantMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let batches = Opts::new(name("variant_batches_total"), "Batches, by variant of the client and result");
        let batches = IntCounterVec::new(batches, &["variant", "result"])?;
        let seconds = HistogramOpts::new(
            name("variant_request_seconds"),
            "Time from the headers of a batch to its response, by variant of the client",
        );
        let seconds = HistogramVec::new(seconds.buckets(REQUEST_SECONDS.to_vec()), &["variant"])?;
        registry.register(Box::new(batches.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { batches, seconds, names: Mutex::default() })
    }

    /// Gives these variants series, and no other.
    pub fn replace<'a>(&self, variants: impl Iterator<Item = &'a str>) {
        let new: Vec<String> = variants.map(str::to_owned).collect();
        let mut names = self.names.lock();
        for gone in names.iter().filter(|name| !new.contains(name)) {
            for result in RequestResult::VALUES {
                // It has no series if it had no request.
                let _: prometheus::Result<()> = self.batches.remove_label_values(&[gone.as_str(), result]);
            }
            let _: prometheus::Result<()> = self.seconds.remove_label_values(&[gone]);
        }
        *names = new;
    }

    /// Counts a batch. A request of a variant that a reload has removed in the meantime is not counted.
    pub fn observe(&self, variant: &str, result: RequestResult, time: Duration) {
        // Held, so that no series is made while they are removed.
        let names = self.names.lock();
        if names.iter().any(|name| name == variant) {
            self.batches.with_label_values(&[variant, result.text()]).inc();
            self.seconds.with_label_values(&[variant]).observe(time.as_secs_f64());
        }
    }

    /// The number of batches of a variant with this result.
    pub fn count(&self, variant: &str, result: RequestResult) -> u64 {
        let names = self.names.lock();
        if names.iter().any(|name| name == variant) {
            self.batches.with_label_values(&[variant, result.text()]).get()
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_variants_in_force_have_series() {
        let registry = Registry::new();
        let variants = VariantMetrics::new(&registry).unwrap();
        let series = || registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
        for round in 0..1000 {
            let names = [format!("a{round}"), "b".to_owned()];
            variants.replace(names.iter().map(String::as_str));
            names.iter().for_each(|name| variants.observe(name, RequestResult::Accepted, Duration::ZERO));
            variants.observe("other", RequestResult::Accepted, Duration::ZERO);
            assert_eq!(series(), 4);
        }
        assert_eq!(variants.count("b", RequestResult::Accepted), 1000);
        assert_eq!(variants.count("other", RequestResult::Accepted), 0);
    }
}
