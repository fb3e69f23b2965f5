//! What a run has shown: as text, as JSON that can be read back, and as a page to look at.

mod chart;
mod conclusion;
mod figure;
mod file;
mod html;
mod latency;
mod machine;
mod program;
#[cfg(test)]
pub(crate) mod sample;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::conclusion::Conclusion;
pub use self::figure::{Direction, FIGURES, Figure, median};
pub use self::file::{Unreadable, read};
pub use self::latency::Curve;
pub use self::machine::Machine;
pub use self::program::ProgramReport;
use self::text::NONE;
pub(crate) use self::text::{quantiles, row};

use crate::ledger::Totals;
use crate::load::{Done, Quantiles, Rate, Tally};
use crate::readback::Objects;
use crate::s3::Stats;
use crate::server::{Exit, Usage};
use crate::timeline::Sample;
use crate::trial::{self, Trial};

/// The format of the JSON. It counts up when what is there already changes its meaning; what is only added does not
/// count.
pub const FORMAT: u32 = 1;

/// What a run has shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Its name.
    pub name: String,
    /// When it began, as `2026-11-20T13:00:00Z`.
    pub began: String,
    /// Where it ran.
    pub machine: Machine,
    /// The id that its payloads bear.
    pub run: String,
    /// How it was set up.
    pub load: LoadReport,
    /// From the first request to the last answer, in seconds.
    pub seconds: f64,
    /// Answered requests a second.
    pub requests_per_second: f64,
    /// Latency of accepted requests, from when they were due.
    pub accepted: Quantiles,
    /// Latency of refused requests.
    pub refused: Quantiles,
    /// Both of them in full.
    pub latency: Latency,
    /// How late requests went out: what the generator itself, or the want of a free connection, added.
    pub late: Quantiles,
    /// Requests by the status of their answers.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Requests that were due and never sent.
    pub unsent: u64,
    /// Connections made, and those that could not be made.
    pub connects: (u64, u64),
    /// What this program itself used for each answered request, the S3 server in it included, in microseconds of CPU.
    pub own_cpu_micros_per_request: f64,
    /// What was started, and how, if this program started the server.
    pub program: Option<ProgramReport>,
    /// What its objects went into, in words.
    pub place: String,
    /// What the server used, if this program started it.
    pub server: Option<ServerReport>,
    /// The objects in the store, if it was read.
    pub objects: Option<Objects>,
    /// What the S3 server in this process was asked, if there was one.
    pub s3: Option<S3Report>,
    /// What became of every payload.
    pub ledger: Totals,
    /// Whether the ledger was checked against a store at all.
    pub checked: bool,
    /// The load second by second.
    pub timeline: Vec<Sample>,
    /// What a scenario asked and what the answer was, if the load belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<Conclusion>,
}

/// The distributions of latencies, from when requests were due, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Of accepted requests.
    pub accepted: Curve,
    /// Of refused ones.
    pub refused: Curve,
}

/// What a trial knows at its end.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) began: String,
    pub(crate) own_cpu_micros: u64,
    pub(crate) program: Option<ProgramReport>,
    pub(crate) server: Option<ServerReport>,
    pub(crate) objects: Option<Objects>,
    pub(crate) s3: Option<Stats>,
    pub(crate) timeline: Vec<Sample>,
}

/// The load's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the setting of the same name")]
pub struct LoadReport {
    pub rate: String,
    pub connections: u32,
    pub endpoints: u32,
    pub new_connections: f64,
    pub payloads_per_request: String,
    pub payload_size: usize,
    pub form: String,
    pub encoding: String,
    pub path: String,
    #[serde(default)]
    pub threads: Option<u32>,
    /// In seconds.
    #[serde(default)]
    pub duration: Option<f64>,
    #[serde(default)]
    pub requests: Option<u64>,
    /// Of the S3 server in this process; empty is none.
    #[serde(default)]
    pub faults: String,
}

/// What the server used, and how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// CPU for each answered request during the load, in microseconds.
    pub cpu_micros_per_request: f64,
    /// The same for each payload.
    pub cpu_micros_per_payload: f64,
    /// CPU seconds from its start to its end.
    pub cpu_seconds: f64,
    /// The most memory it ever had resident, in bytes.
    pub peak_memory: u64,
    /// How it ended.
    pub exit: Exit,
}

/// What the S3 server was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Report {
    /// PutObject calls.
    pub puts: u64,
    /// Those that succeeded.
    pub stored: u64,
    /// The most of them at once.
    pub in_flight_peak: u64,
    /// Faults injected.
    pub faults: BTreeMap<String, u64>,
}

impl LoadReport {
    /// Whether requests were sent at times of their own, and not when the one before was answered.
    pub(crate) fn is_paced(&self) -> bool {
        self.rate != Rate::UNPACED.to_string()
    }
}

impl ServerReport {
    pub(crate) fn new(before: Usage, after: Usage, exit: Exit, tally: &Tally, per_request: f64) -> Self {
        // A server that was stopped during the load is not there to be measured after it.
        let after = if after.cpu_micros > before.cpu_micros { after } else { exit.usage };
        let per_answer = trial::cpu_between(before, after) as f64 / tally.answered().max(1) as f64;
        Self {
            cpu_micros_per_request: per_answer,
            cpu_micros_per_payload: per_answer / per_request,
            cpu_seconds: exit.usage.cpu().as_secs_f64(),
            peak_memory: exit.usage.peak.max(after.peak),
            exit,
        }
    }
}

impl Report {
    pub(crate) fn new(trial: &Trial, done: &Done, shown: Shown) -> Self {
        let (plan, tally) = (&trial.plan, &done.tally);
        let mut ledger = done.ledger.totals();
        if shown.objects.is_none() {
            // Nobody looked, so nothing can be said to be missing.
            ledger.lost = 0;
        }
        let seconds = done.elapsed.as_secs_f64();
        Self {
            format: FORMAT,
            name: trial.name.clone(),
            began: shown.began,
            machine: Machine::here(),
            run: format!("{:08x}", plan.run),
            load: LoadReport {
                rate: plan.rate.to_string(),
                connections: plan.connections,
                endpoints: if plan.endpoints == 0 { plan.connections } else { plan.endpoints },
                new_connections: plan.new_connections,
                payloads_per_request: plan.shape.to_string(),
                payload_size: plan.payload_size,
                form: format!("{:?}", plan.form).to_lowercase(),
                encoding: format!("{:?}", plan.encoding).to_lowercase(),
                path: plan.path.clone(),
                threads: Some(plan.threads),
                duration: plan.duration.map(|duration| duration.as_secs_f64()),
                requests: plan.requests,
                faults: trial.place.faults().map(ToString::to_string).unwrap_or_default(),
            },
            seconds,
            requests_per_second: tally.answered() as f64 / seconds.max(f64::MIN_POSITIVE),
            accepted: tally.accepted.summary(),
            refused: tally.refused.summary(),
            latency: Latency { accepted: Curve::of(&tally.accepted), refused: Curve::of(&tally.refused) },
            late: tally.late.summary(),
            statuses: tally.statuses.clone(),
            unanswered: tally.unanswered,
            unsent: tally.unsent,
            connects: (tally.connects, tally.connect_errors),
            own_cpu_micros_per_request: shown.own_cpu_micros as f64 / tally.answered().max(1) as f64,
            program: shown.program,
            place: trial.place.to_string(),
            server: shown.server,
            checked: shown.objects.is_some(),
            objects: shown.objects,
            s3: shown.s3.map(|stats| S3Report {
                puts: stats.puts,
                stored: stats.stored,
                in_flight_peak: stats.in_flight_peak,
                faults: stats.faults.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            }),
            ledger,
            timeline: shown.timeline,
            conclusion: None,
        }
    }

    /// Whether something that was promised did not hold: the ledger, the server's exit code, or any answer at all.
    pub fn failed(&self) -> bool {
        self.ledger.failed()
            || self.is_without_answers()
            || self.server.as_ref().is_some_and(|server| server.exit.code != Some(0))
    }

    /// Whether requests were due and not one of them was answered.
    pub fn is_without_answers(&self) -> bool {
        self.answered_requests() == 0 && self.unanswered + self.unsent > 0
    }

    /// Requests that were answered, in any way.
    pub fn answered_requests(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Requests that were accepted: answered with 2xx.
    pub fn accepted_requests(&self) -> u64 {
        self.statuses.range(200..300).map(|(_, count)| count).sum()
    }

    /// The same a second.
    pub fn accepted_per_second(&self) -> f64 {
        self.accepted_requests() as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// A figure of one request, as it is shown: without a request that was answered there is none.
    fn per_request(&self, shown: String) -> String {
        if self.answered_requests() > 0 { shown } else { NONE.to_owned() }
    }
}

/// The fields of a JSON value with their paths, as `env.ACK`; those that are null or empty are left out.
pub(crate) fn flat(value: &Value) -> Vec<(String, String)> {
    let Value::Object(fields) = value else { return Vec::new() };
    let mut all = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::Object(_) => {
                all.extend(flat(value).into_iter().map(|(inner, text)| (format!("{name}.{inner}"), text)))
            }
            Value::String(text) => all.push((name.clone(), text.clone())),
            Value::Array(parts) => {
                let parts: Vec<_> =
                    parts.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect();
                all.push((name.clone(), parts.join(" ")));
            }
            Value::Number(number) => all
                .push((name.clone(), number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()))),
            Value::Bool(_) => all.push((name.clone(), value.to_string())),
        }
    }
    all.retain(|(_, text)| !text.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::sample::report;
    use super::*;

    fn without_answers() -> Report {
        let mut report = report();
        report.statuses.clear();
        (report.accepted, report.refused, report.late) = <_>::default();
        report.unsent = 5_000;
        report
    }

    #[test]
    fn a_run_in_which_nothing_that_was_due_was_answered_has_failed_and_says_so() {
        assert!(!report().failed());
        let nothing = without_answers();
        assert!(nothing.failed());
        assert!(nothing.html().contains("none of 5,000 requests was answered"));
        // Of a load that had nothing to send, nothing is amiss.
        assert!(!Report { unsent: 0, ..nothing }.failed());
    }

    #[test]
    fn what_no_request_was_answered_for_has_no_figure_for_each() {
        let text = without_answers().to_string();
        for name in ["latency accepted", "CPU of loadtest itself"] {
            let line = text.lines().find(|line| line.trim().starts_with(name)).unwrap();
            assert_eq!(line.trim().strip_prefix(name).unwrap().trim(), "-");
        }
        assert!(text.contains("- a request, - a payload, 2.00 s in all"), "{text}");
        let figures = |report: &Report| {
            let of_each = FIGURES.iter().filter(|figure| ["CPU a request", "CPU a payload"].contains(&figure.name));
            of_each.filter_map(|figure| (figure.of)(report)).count()
        };
        assert_eq!((figures(&report()), figures(&without_answers())), (2, 0));
    }

    #[test]
    fn what_is_accepted_a_second_leaves_the_refused_out() {
        let report = report();
        assert_eq!((report.answered_requests(), report.accepted_requests()), (5_000, 4_999));
        assert!((report.accepted_per_second() - 499.9).abs() < 1e-9);
    }
}
