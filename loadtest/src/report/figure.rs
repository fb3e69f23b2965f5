//! The figures of a report that are compared with those of another.

use super::{Report, ServerReport};
use crate::ledger::Totals;
use crate::units::{show_micros, show_size};

/// Which way a figure improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// More is better.
    Up,
    /// Less is better.
    Down,
    /// Neither.
    Either,
}

/// One figure of a report.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Which way it improves.
    pub direction: Direction,
    /// Shows it with its unit.
    pub show: fn(f64) -> String,
    /// Its value, if the report has it.
    pub of: fn(&Report) -> Option<f64>,
}

/// All of them, in order.
pub const FIGURES: [Figure; 25] = {
    use Direction::{Down, Either, Up};
    [
        figure("requests answered", Up, rate, |report| Some(report.requests_per_second)),
        figure("requests accepted", Up, rate, |report| Some(report.accepted_per_second())),
        figure("CPU a request", Down, cpu, |report| of_each(report, |server| server.cpu_micros_per_request)),
        figure("CPU a payload", Down, cpu, |report| of_each(report, |server| server.cpu_micros_per_payload)),
        figure("serial CPU a request", Down, cpu, serial_cpu_per_request),
        figure("CPU a stored payload", Down, cpu, cpu_per_stored_payload),
        figure("CPU in total", Down, seconds, |report| Some(report.server.as_ref()?.cpu_seconds)),
        figure("peak memory", Down, size, |report| Some(report.server.as_ref()?.peak_memory as f64)),
        figure("latency p50", Down, micros, |report| answered(report, report.accepted.p50)),
        figure("latency p90", Down, micros, |report| answered(report, report.accepted.p90)),
        figure("latency p99", Down, micros, |report| answered(report, report.accepted.p99)),
        figure("latency p99.9", Down, micros, |report| answered(report, report.accepted.p99_9)),
        figure("latency max", Down, micros, |report| answered(report, report.accepted.max)),
        figure("sent late p99", Down, micros, |report| Some(report.late?.p99 as f64)),
        figure("payloads rejected", Down, count, |report| Some(report.payloads.rejected as f64)),
        figure("payloads unanswered", Down, count, |report| Some(report.payloads.unanswered as f64)),
        figure("requests never sent", Down, count, |report| Some(report.unsent as f64)),
        figure("payloads lost", Down, count, |report| checked(report, |totals| totals.lost)),
        figure("payloads duplicated", Down, count, |report| checked(report, |totals| totals.duplicated)),
        figure("payloads corrupt", Down, count, |report| checked(report, |totals| totals.corrupt)),
        figure("stored though rejected", Down, count, |report| checked(report, |totals| totals.stored_though_rejected)),
        figure("objects", Either, count, |report| Some(report.objects?.count as f64)),
        figure("bytes stored", Either, size, |report| Some(report.objects?.bytes as f64)),
        figure("shutdown", Down, seconds, |report| Some(report.server.as_ref()?.exit.seconds)),
        figure("runs failed", Down, count, |report| Some(f64::from(u8::from(report.failed())))),
    ]
};

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

/// All CPU of the server from its start to its exit, by the payloads in the store: a design that responds first and works
/// later looks cheap by the request.
fn cpu_per_stored_payload(report: &Report) -> Option<f64> {
    let stored = report.ledger.filter(|totals| totals.stored > 0)?.stored;
    Some(report.server.as_ref()?.cpu_seconds * 1e6 / stored as f64)
}

/// What the server used for each request, if any was answered.
fn of_each(report: &Report, of: fn(&ServerReport) -> f64) -> Option<f64> {
    (report.answered_requests() > 0).then_some(of(report.server.as_ref()?))
}

/// The same of its busiest thread that is no worker of the runtime, if it has one.
fn serial_cpu_per_request(report: &Report) -> Option<f64> {
    report.server.as_ref()?.serial_cpu_micros_per_request.filter(|_| report.answered_requests() > 0)
}

/// A count of the ledger, if the store was checked.
fn checked(report: &Report, of: fn(&Totals) -> u64) -> Option<f64> {
    report.ledger.as_ref().map(|totals| of(totals) as f64)
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
