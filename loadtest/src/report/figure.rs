//! The figures of a report that are compared with those of another.

use super::{Report, ServerReport};
use crate::units::{show_micros, show_size};

/// Which way a figure is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// More is better.
    Up,
    /// Less is better.
    Down,
    /// Neither: it is to be known.
    Either,
}

/// One figure of a report.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// What it is called.
    pub name: &'static str,
    /// Which way it is to go.
    pub direction: Direction,
    /// With its unit.
    pub show: fn(f64) -> String,
    /// Its value, if the report has it.
    pub of: fn(&Report) -> Option<f64>,
}

/// All of them, in order.
pub const FIGURES: [Figure; 22] = {
    use Direction::{Down, Either, Up};
    [
        figure("requests answered", Up, rate, |report| Some(report.requests_per_second)),
        figure("CPU a request", Down, cpu, |report| of_each(report, |server| server.cpu_micros_per_request)),
        figure("CPU a payload", Down, cpu, |report| of_each(report, |server| server.cpu_micros_per_payload)),
        figure("CPU in all", Down, seconds, |report| Some(report.server.as_ref()?.cpu_seconds)),
        figure("peak memory", Down, size, |report| Some(report.server.as_ref()?.peak_memory as f64)),
        figure("latency p50", Down, micros, |report| answered(report, report.accepted.p50)),
        figure("latency p90", Down, micros, |report| answered(report, report.accepted.p90)),
        figure("latency p99", Down, micros, |report| answered(report, report.accepted.p99)),
        figure("latency p99.9", Down, micros, |report| answered(report, report.accepted.p99_9)),
        figure("latency max", Down, micros, |report| answered(report, report.accepted.max)),
        figure("sent late p99", Down, micros, |report| report.load.is_paced().then_some(report.late.p99 as f64)),
        figure("payloads refused", Down, count, |report| Some(report.ledger.refused as f64)),
        figure("payloads unanswered", Down, count, |report| Some(report.ledger.unanswered as f64)),
        figure("requests never sent", Down, count, |report| Some(report.unsent as f64)),
        figure("payloads lost", Down, count, |report| checked(report, report.ledger.lost)),
        figure("payloads duplicated", Down, count, |report| checked(report, report.ledger.duplicated)),
        figure("payloads corrupt", Down, count, |report| checked(report, report.ledger.corrupt)),
        figure("stored though refused", Down, count, |report| checked(report, report.ledger.stored_though_refused)),
        figure("objects", Either, count, |report| Some(report.objects?.count as f64)),
        figure("bytes stored", Either, size, |report| Some(report.objects?.bytes as f64)),
        figure("server stopped in", Down, seconds, |report| Some(report.server.as_ref()?.exit.seconds)),
        figure("runs failed", Down, count, |report| Some(f64::from(u8::from(report.failed())))),
    ]
};

/// The median, the lower of the two middle ones if their number is even; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

const fn figure(
    name: &'static str,
    direction: Direction,
    show: fn(f64) -> String,
    of: fn(&Report) -> Option<f64>,
) -> Figure {
    Figure { name, direction, show, of }
}

/// A latency of accepted requests, if there were any.
fn answered(report: &Report, micros: u64) -> Option<f64> {
    (report.accepted.max > 0).then_some(micros as f64)
}

/// What the server used for each request, if any was answered.
fn of_each(report: &Report, of: fn(&ServerReport) -> f64) -> Option<f64> {
    (report.answered_requests() > 0).then_some(of(report.server.as_ref()?))
}

/// A count of the ledger that means something only if the store was read.
fn checked(report: &Report, count: u64) -> Option<f64> {
    report.checked.then_some(count as f64)
}

fn rate(value: f64) -> String {
    format!("{value:.0}/s")
}

fn cpu(value: f64) -> String {
    format!("{value:.2} us")
}

fn micros(value: f64) -> String {
    show_micros(value as u64)
}

fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

fn size(value: f64) -> String {
    show_size(value as u64)
}

fn count(value: f64) -> String {
    format!("{value:.0}")
}
