//! Metrics as lines of StatsD. Pure.
//!
//! | metric | lines |
//! | --- | --- |
//! | counter | `name:delta\|c`; none if the delta is 0 |
//! | gauge | `name:value\|g` |
//! | histogram | `name.count:delta\|c`, and for the observations of the interval `name.p50`, `name.p90` and `name.p99` as gauges |
//!
//! A percentile is a gauge and not a timer (`ms`), because a daemon would compute percentiles of the percentiles.

use std::collections::HashMap;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::datagrams::Datagrams;
use crate::config::StatsdTags;
use crate::percentile::Interval;

/// The names of percentiles, and the fractions of the observations.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
/// Labels that precede the others in a name: Graphite groups series by the first parts of their names.
const LEADING_LABELS: [&str; 2] = ["route", "tenant"];
/// Stands for infinity, which StatsD lacks. It is the largest integer that a double can count to, since daemons use doubles.
const INFINITY: f64 = 9_007_199_254_740_991.0;

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Encodes the difference between two states of the metrics.
pub(super) struct Encoder {
    prefix: String,
    tags: StatsdTags,
}

impl Encoder {
    /// Every name begins with `prefix` and a dot.
    pub(super) fn new(prefix: &str, tags: StatsdTags) -> Self {
        Self { prefix: prefix.to_owned(), tags }
    }

    /// `after`, with counters and histograms as the difference to `before`. A series that is not in `before`, or that was reset
    /// since, counts from 0.
    pub(super) fn encode(&self, before: &[MetricFamily], after: &[MetricFamily]) -> Datagrams {
        let before: HashMap<&str, HashMap<Labels<'_>, &Metric>> =
            before.iter().map(|family| (family.name(), by_labels(family))).collect();
        let mut datagrams = Datagrams::default();
        for family in after {
            let before = before.get(family.name());
            for metric in family.get_metric() {
                let before = before.and_then(|family| family.get(&labels(metric))).copied();
                self.metric(family, metric, before, &mut datagrams);
            }
        }
        datagrams
    }

    fn metric(&self, family: &MetricFamily, after: &Metric, before: Option<&Metric>, datagrams: &mut Datagrams) {
        let name = family.name();
        let name = name.strip_prefix("millpond_").unwrap_or(name);
        match family.get_field_type() {
            MetricType::COUNTER => {
                let series = self.series(name.strip_suffix("_total").unwrap_or(name), after.get_label());
                let (now, past) = (after.get_counter(), before.map(Metric::get_counter));
                // Less than before: the counter was reset.
                let past = past.map_or(0.0, |past| past.get_value());
                let delta = if past <= now.get_value() { now.get_value() - past } else { now.get_value() };
                series.count("", delta, datagrams);
            }
            MetricType::GAUGE => {
                self.series(name, after.get_label()).gauge("", after.get_gauge().get_value(), datagrams);
            }
            MetricType::HISTOGRAM => {
                let interval = Interval::between(before.map(Metric::get_histogram), after.get_histogram());
                let (name, scale) = match name.strip_suffix("_seconds") {
                    Some(name) => (&format!("{name}_ms")[..], 1_000.0),
                    None => (name, 1.0),
                };
                let series = self.series(name, after.get_label());
                series.count(".count", interval.count as f64, datagrams);
                for (percentile, quantile) in PERCENTILES {
                    if let Some(value) = interval.percentile(quantile) {
                        series.gauge(&format!(".{percentile}"), thousandths(value * scale), datagrams);
                    }
                }
            }
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }

    fn series(&self, name: &str, labels: &[LabelPair]) -> Series {
        let mut series = Series { name: format!("{}.{name}", self.prefix), tags: String::new() };
        let is_leading = |label: &&LabelPair| LEADING_LABELS.contains(&label.name());
        let (leading, others): (Vec<_>, Vec<_>) = labels.iter().partition(is_leading);
        for (index, label) in leading.into_iter().chain(others).enumerate() {
            match self.tags {
                StatsdTags::Off => {
                    series.name.push('.');
                    series.name.push_str(&escaped(label.value(), "-_"));
                }
                StatsdTags::Dogstatsd => {
                    series.tags.push_str(if index == 0 { "|#" } else { "," });
                    series.tags.push_str(label.name());
                    series.tags.push(':');
                    series.tags.push_str(&escaped(label.value(), "-_./"));
                }
            }
        }
        series
    }
}

/// The name and the tags that the lines of a metric share.
struct Series {
    name: String,
    tags: String,
}

impl Series {
    fn count(&self, part: &str, delta: f64, datagrams: &mut Datagrams) {
        if delta > 0.0 {
            datagrams.push(&self.line(part, delta, "c"));
        }
    }

    /// A gauge that is not a number is omitted.
    fn gauge(&self, part: &str, value: f64, datagrams: &mut Datagrams) {
        let line = self.line(part, value, "g");
        if value < 0.0 {
            // A number with a sign changes a gauge instead of setting it. A datagram keeps the order of the two lines.
            datagrams.push(&format!("{}\n{line}", self.line(part, 0.0, "g")));
        } else if !value.is_nan() {
            datagrams.push(&line);
        }
    }

    fn line(&self, part: &str, value: f64, kind: &str) -> String {
        // Adding 0 removes the sign of a negative zero.
        let value = value.clamp(-INFINITY, INFINITY) + 0.0;
        format!("{}{part}:{value}|{kind}{}", self.name, self.tags)
    }
}

fn labels(metric: &Metric) -> Labels<'_> {
    metric.get_label().iter().map(|label| (label.name(), label.value())).collect()
}

fn by_labels(family: &MetricFamily) -> HashMap<Labels<'_>, &Metric> {
    family.get_metric().iter().map(|metric| (labels(metric), metric)).collect()
}

/// The value of a label with an underscore for each character that is neither alphanumeric nor one of `others`. The value of an
/// empty label is an underscore, since daemons ignore an empty part of a name.
fn escaped(value: &str, others: &str) -> String {
    if value.is_empty() {
        return "_".to_owned();
    }
    value.chars().map(|c| if c.is_ascii_alphanumeric() || others.contains(c) { c } else { '_' }).collect()
}

/// Rounded to three decimals.
fn thousandths(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
