//! The charts of the page.

use super::thousands;
use crate::report::chart::{Across, Chart, Series, Up};
use crate::report::{Curve, Report};
use crate::timeline::{Gauges, Sample};
use crate::units::{show_micros, show_size};

impl Report {
    pub(super) fn latency_charts(&self) -> [Chart; 2] {
        let curve = |name, class, curve: &Curve| {
            let points: Vec<_> = curve.by_nines().map(|(nines, micros)| (nines, Some(micros as f64))).collect();
            (!points.is_empty()).then_some(Series { name, class, points })
        };
        let distribution =
            [curve("accepted", "s1", &self.latency.accepted), curve("refused", "s2", &self.latency.refused)];
        let samples = self.drawn();
        let of_any =
            |of: fn(&Sample) -> u64| line(&samples, move |sample| (sample.accepted > 0).then(|| of(sample) as f64));
        let over_time = vec![
            Series { name: "p99", class: "s2", points: of_any(|sample| sample.p99) },
            Series { name: "p50", class: "s1", points: of_any(|sample| sample.p50) },
        ];
        [
            Chart {
                title: "By percentile",
                across: Across::Nines,
                up: Up::Decades,
                unit: "time to the answer",
                show: micros,
                series: distribution.into_iter().flatten().collect(),
            },
            Chart {
                title: "Of each second",
                across: Across::Seconds,
                up: Up::Decades,
                unit: "time to the answer",
                show: micros,
                series: over_time,
            },
        ]
    }

    pub(super) fn timeline_charts(&self) -> Vec<Chart> {
        let samples = self.drawn();
        let rate = |name, class, of: fn(&Sample) -> u64| {
            let points = line(&samples, move |sample| Some(sample.per_second(of(sample))));
            Series { name, class, points }
        };
        let mut requests =
            vec![rate("accepted", "s1", |sample| sample.accepted), rate("refused", "s2", |sample| sample.refused)];
        if samples.iter().any(|sample| sample.unanswered > 0) {
            requests.push(rate("unanswered", "s3", |sample| sample.unanswered));
        }
        let one = |title, name, up, show, of: &dyn Fn(&Sample) -> Option<f64>| {
            let series = vec![Series { name, class: "s1", points: line(&samples, of) }];
            Chart { title, across: Across::Seconds, up, unit: name, show, series }
        };
        let gauge = |of: fn(&Gauges) -> Option<u64>| {
            move |sample: &Sample| sample.gauges.as_ref().and_then(of).map(|value| value as f64)
        };
        vec![
            Chart {
                title: "Requests a second",
                across: Across::Seconds,
                up: Up::Linear,
                unit: "requests a second",
                show: per_second,
                series: requests,
            },
            one("CPU of the server, in cores", "cores", Up::Linear, cores, &|sample| sample.cpu_cores),
            one("Queue, in jobs", "jobs", Up::Whole, whole, &gauge(|gauges| gauges.queue_jobs)),
            one("Queue, in bytes", "bytes", Up::Bytes, bytes, &gauge(|gauges| gauges.queue_bytes)),
            one("Busy workers", "workers", Up::Whole, whole, &gauge(|gauges| gauges.busy_workers)),
            one(
                "Segments waiting for a worker",
                "segments",
                Up::Whole,
                whole,
                &gauge(|gauges| gauges.segments_waiting),
            ),
            one("Spool on disk", "bytes", Up::Bytes, bytes, &gauge(|gauges| gauges.spool_bytes)),
            one("Memory of the server", "resident", Up::Bytes, bytes, &|sample| {
                sample.resident.map(|bytes| bytes as f64)
            }),
        ]
    }

    /// The samples that are long enough to be drawn; all of them if none is.
    fn drawn(&self) -> Vec<&Sample> {
        let long: Vec<_> = self.timeline.iter().filter(|sample| !sample.is_short()).collect();
        if long.is_empty() { self.timeline.iter().collect() } else { long }
    }
}

fn line(samples: &[&Sample], of: impl Fn(&Sample) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    samples.iter().map(|sample| (sample.at, of(sample))).collect()
}

fn micros(value: f64) -> String {
    show_micros(value as u64)
}

fn bytes(value: f64) -> String {
    show_size(value as u64)
}

fn whole(value: f64) -> String {
    thousands(value as u64)
}

fn per_second(value: f64) -> String {
    format!("{}/s", thousands(value.round() as u64))
}

fn cores(value: f64) -> String {
    format!("{value:.2}")
}
