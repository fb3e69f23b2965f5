//! Creates metrics and registers them.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::label::Label;

pub(super) fn name(short: &str) -> String {
    format!("millpond_{short}")
}

pub(super) fn counter(registry: &Registry, short: &str, help: &str) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name(short), help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

pub(super) fn gauge(registry: &Registry, short: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name(short), help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// A gauge of any number. `name` is complete.
pub(super) fn number(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Gauge> {
    let gauge = Gauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

pub(super) fn histogram(
    registry: &Registry,
    short: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name(short), help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

/// A metric for each value of a label, in the order of their indexes.
pub(super) fn by_label<L: Label, M>(metric: impl FnMut(&&'static str) -> M) -> Vec<M> {
    L::VALUES.iter().map(metric).collect()
}

/// A counter for each value of its only label.
pub(super) fn labelled<L: Label>(
    registry: &Registry,
    short: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<Vec<IntCounter>> {
    let counters = IntCounterVec::new(Opts::new(name(short), help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(by_label::<L, _>(|value| counters.with_label_values(&[*value])))
}

/// A gauge for each value of its only label.
pub(super) fn labelled_gauges<L: Label>(
    registry: &Registry,
    short: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<Vec<IntGauge>> {
    let gauges = IntGaugeVec::new(Opts::new(name(short), help), &[label])?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(by_label::<L, _>(|value| gauges.with_label_values(&[*value])))
}
