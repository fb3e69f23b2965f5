//! The encoder against a parser of its own, and against counters of the test.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};
use proptest::prelude::*;

use super::datagrams::DATAGRAM_MAX_BYTES;
use super::encoder::Encoder;
use crate::config::StatsdTags;

/// The lines of datagrams as a daemon understands them: by name and tags, the sum of counters and the last value of gauges.
#[derive(Debug, Default, PartialEq)]
struct Received {
    counters: BTreeMap<String, f64>,
    gauges: BTreeMap<String, f64>,
}

impl Received {
    fn receive(&mut self, datagrams: &[String]) {
        for line in datagrams.iter().flat_map(|datagram| datagram.split('\n')) {
            let (name, rest) = line.split_once(':').expect("a name");
            let (value, rest) = rest.split_once('|').expect("a value");
            let (kind, tags) = rest.split_once("|#").map_or((rest, None), |(kind, tags)| (kind, Some(tags)));
            let is_plain = |text: &str| !text.is_empty() && !text.contains([':', '|', '@', '#', ',', ' ', '\r']);
            assert!(is_plain(name) && name.split('.').all(|part| !part.is_empty()), "{line}");
            for tag in tags.into_iter().flat_map(|tags| tags.split(',')) {
                assert!(tag.split_once(':').is_some_and(|(key, value)| is_plain(key) && is_plain(value)), "{line}");
            }
            let is_number = value.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
            let number: f64 = value.parse().expect("a number");
            assert!(is_number && number.is_finite(), "{line}");
            let series = tags.map_or_else(|| name.to_owned(), |tags| format!("{name};{tags}"));
            match kind {
                "c" => *self.counters.entry(series).or_default() += number,
                "g" if value.starts_with('-') => *self.gauges.entry(series).or_default() += number,
                "g" => drop(self.gauges.insert(series, number)),
                _ => panic!("an unknown type: {line}"),
            }
        }
    }
}

struct Metrics {
    registry: Registry,
    requests: CounterVec,
    level: GaugeVec,
    seconds: HistogramVec,
}

impl Metrics {
    fn new() -> Self {
        let requests = CounterVec::new(Opts::new("millpond_requests_total", "a"), &["outcome", "route"]).unwrap();
        let level = GaugeVec::new(Opts::new("process_level", "a"), &["tenant"]).unwrap();
        let options = HistogramOpts::new("millpond_commit_seconds", "a").buckets(vec![0.001, 0.01, 0.1]);
        let seconds = HistogramVec::new(options, &[]).unwrap();
        let registry = Registry::new();
        registry.register(Box::new(requests.clone())).unwrap();
        registry.register(Box::new(level.clone())).unwrap();
        registry.register(Box::new(seconds.clone())).unwrap();
        Self { registry, requests, level, seconds }
    }

    fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

fn encoded(tags: StatsdTags, before: &[MetricFamily], after: &[MetricFamily]) -> Vec<String> {
    let (datagrams, dropped) = Encoder::new("pond.eu", tags).encode(before, after).finish();
    assert_eq!(dropped, 0);
    datagrams
}

#[test]
fn labels_are_parts_of_the_name_or_tags_with_the_route_first() {
    let metrics = Metrics::new();
    metrics.requests.with_label_values(&["accepted", "payloads"]).inc_by(3.0);
    metrics.level.with_label_values(&["a.b"]).set(0.5);
    (0..10).for_each(|_| metrics.seconds.with_label_values::<&str>(&[]).observe(0.005));
    let seconds = "pond.eu.commit_ms.count:10|c\npond.eu.commit_ms.p50:5.5|g\npond.eu.commit_ms.p90:9.1|g\npond.eu.commit_ms.p99:9.91|g\n";
    assert_eq!(
        encoded(StatsdTags::Off, &[], &metrics.gather()),
        [format!("{seconds}pond.eu.requests.payloads.accepted:3|c\npond.eu.process_level.a_b:0.5|g")]
    );
    assert_eq!(
        encoded(StatsdTags::Dogstatsd, &[], &metrics.gather()),
        [format!(
            "{seconds}pond.eu.requests:3|c|#route:payloads,outcome:accepted\npond.eu.process_level:0.5|g|#tenant:a.b"
        )]
    );
}

#[test]
fn a_counter_that_has_not_changed_is_not_sent_and_one_that_was_reset_counts_from_0() {
    let metrics = Metrics::new();
    let counter = metrics.requests.with_label_values(&["accepted", "payloads"]);
    counter.inc_by(3.0);
    let before = metrics.gather();
    assert!(encoded(StatsdTags::Off, &before, &metrics.gather()).is_empty());
    counter.reset();
    counter.inc_by(2.0);
    assert_eq!(encoded(StatsdTags::Off, &before, &metrics.gather()), ["pond.eu.requests.payloads.accepted:2|c"]);
}

#[test]
fn a_negative_gauge_is_set_to_0_first_because_a_sign_means_a_change() {
    let metrics = Metrics::new();
    let level = metrics.level.with_label_values(&["a"]);
    level.set(-2.0);
    assert_eq!(
        encoded(StatsdTags::Off, &[], &metrics.gather()),
        ["pond.eu.process_level.a:0|g\npond.eu.process_level.a:-2|g"]
    );
    level.set(-0.0);
    assert_eq!(encoded(StatsdTags::Off, &[], &metrics.gather()), ["pond.eu.process_level.a:0|g"]);
}

#[test]
fn infinity_is_sent_as_the_largest_exact_integer_and_nan_is_not_sent() {
    let metrics = Metrics::new();
    let level = metrics.level.with_label_values(&["a"]);
    level.set(f64::INFINITY);
    assert_eq!(encoded(StatsdTags::Off, &[], &metrics.gather()), ["pond.eu.process_level.a:9007199254740991|g"]);
    level.set(f64::NAN);
    assert!(encoded(StatsdTags::Off, &[], &metrics.gather()).is_empty());
}

#[test]
fn a_line_that_exceeds_a_datagram_is_dropped_and_counted() {
    let metrics = Metrics::new();
    let fixed = "pond.eu.process_level.:1|g".len();
    for extra in [0, 1] {
        metrics.level.with_label_values(&["a".repeat(DATAGRAM_MAX_BYTES - fixed + extra)]).set(1.0);
    }
    let (datagrams, dropped) = Encoder::new("pond.eu", StatsdTags::Off).encode(&[], &metrics.gather()).finish();
    assert_eq!((datagrams.len(), datagrams[0].len(), dropped), (1, DATAGRAM_MAX_BYTES, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Count(u8, u32),
    Set(u8, f64),
    Observe(f64),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<u32>()).prop_map(|(series, by)| Step::Count(series % 16, by)),
        2 => (any::<u8>(), any::<f64>()).prop_map(|(series, value)| Step::Set(series % 4, value)),
        2 => (0.0..0.2).prop_map(Step::Observe),
        2 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_daemon_that_receives_every_datagram_has_every_count_and_the_last_value_of_every_gauge(
        names in prop::collection::vec("\\PC{0,60}", 16),
        steps in prop::collection::vec(step(), 0..60),
        is_tagged in any::<bool>(),
    ) {
        let tags = if is_tagged { StatsdTags::Dogstatsd } else { StatsdTags::Off };
        let metrics = Metrics::new();
        let (mut received, mut before, mut observed) = (Received::default(), Vec::new(), 0);
        for step in steps.iter().chain([&Step::Flush]) {
            match step {
                Step::Count(series, by) => {
                    let labels = ["accepted", names[usize::from(*series)].as_str()];
                    metrics.requests.with_label_values(&labels).inc_by(f64::from(*by));
                }
                Step::Set(series, value) => metrics.level.with_label_values(&[format!("t{series}")]).set(*value),
                Step::Observe(seconds) => {
                    metrics.seconds.with_label_values::<&str>(&[]).observe(*seconds);
                    observed += 1;
                }
                Step::Flush => {
                    let after = metrics.gather();
                    let datagrams = encoded(tags, &before, &after);
                    prop_assert!(datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM_MAX_BYTES));
                    received.receive(&datagrams);
                    before = after;
                }
            }
        }
        let series = |family: &str| before.iter().filter(|found| found.name() == family).flat_map(MetricFamily::get_metric).cloned().collect::<Vec<_>>();
        let total: f64 = series("millpond_requests_total").iter().map(|metric| metric.get_counter().get_value()).sum();
        let counted = received.counters.iter().filter(|(name, _)| name.contains("requests"));
        prop_assert_eq!(counted.map(|(_, count)| count).sum::<f64>(), total);
        prop_assert_eq!(received.counters.get("pond.eu.commit_ms.count").copied().unwrap_or_default(), f64::from(observed));
        for metric in series("process_level") {
            let (tenant, value) = (metric.get_label()[0].value(), metric.get_gauge().get_value());
            let name = if is_tagged { format!("pond.eu.process_level;tenant:{tenant}") } else { format!("pond.eu.process_level.{tenant}") };
            prop_assert_eq!(received.gauges.get(&name).copied(), Some(value.clamp(-9_007_199_254_740_991.0, 9_007_199_254_740_991.0)));
        }
        let percentiles: Vec<_> = ["p50", "p90", "p99"].iter().filter_map(|p| received.gauges.get(&format!("pond.eu.commit_ms.{p}"))).collect();
        prop_assert_eq!(percentiles.len(), if observed > 0 { 3 } else { 0 });
        prop_assert!(percentiles.is_sorted_by(|a, b| a <= b) && percentiles.iter().all(|p| (0.0..=100.0).contains(*p)));
    }
}
