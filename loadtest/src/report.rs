//! What a run has shown, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::ledger::Totals;
use crate::load::{Done, Quantiles, Rate, Tally};
use crate::readback::Objects;
use crate::s3::Stats;
use crate::server::{Exit, Usage};
use crate::trial::{self, Trial};
use crate::units::{show_micros, show_size};

/// What a run has shown.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
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
    /// The server, if this program started it.
    pub server: Option<ServerReport>,
    /// The objects in the store, if it was read.
    pub objects: Option<Objects>,
    /// What the S3 server in this process was asked, if there was one.
    pub s3: Option<S3Report>,
    /// What became of every payload.
    pub ledger: Totals,
    /// Whether the ledger was checked against a store at all.
    pub checked: bool,
}

/// The load's settings.
#[derive(Debug, Clone, Serialize)]
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
}

/// What the server used, and how it went.
#[derive(Debug, Clone, Serialize)]
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
#[derive(Debug, Clone, Default, Serialize)]
pub struct S3Report {
    /// PutObject calls.
    pub puts: u64,
    /// Those that succeeded.
    pub stored: u64,
    /// The most of them at once.
    pub in_flight_peak: u64,
    /// Faults injected.
    pub faults: BTreeMap<&'static str, u64>,
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
    pub(crate) fn new(
        trial: &Trial,
        done: &Done,
        own_cpu_micros: u64,
        server: Option<ServerReport>,
        objects: Option<Objects>,
        s3: Option<Stats>,
    ) -> Self {
        let (plan, tally) = (&trial.plan, &done.tally);
        let mut ledger = done.ledger.totals();
        if objects.is_none() {
            // Nobody looked, so nothing can be said to be missing.
            ledger.lost = 0;
        }
        let seconds = done.elapsed.as_secs_f64();
        Self {
            name: trial.name.clone(),
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
            },
            seconds,
            requests_per_second: tally.answered() as f64 / seconds.max(f64::MIN_POSITIVE),
            accepted: tally.accepted.summary(),
            refused: tally.refused.summary(),
            late: tally.late.summary(),
            statuses: tally.statuses.clone(),
            unanswered: tally.unanswered,
            unsent: tally.unsent,
            connects: (tally.connects, tally.connect_errors),
            own_cpu_micros_per_request: own_cpu_micros as f64 / tally.answered().max(1) as f64,
            server,
            checked: objects.is_some(),
            objects,
            s3: s3.map(|stats| S3Report {
                puts: stats.puts,
                stored: stats.stored,
                in_flight_peak: stats.in_flight_peak,
                faults: stats.faults,
            }),
            ledger,
        }
    }

    /// Whether something that was promised did not hold: the ledger, or the server's exit code.
    pub fn failed(&self) -> bool {
        self.ledger.failed() || self.server.as_ref().is_some_and(|server| server.exit.code != Some(0))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = &self.load;
        writeln!(
            f,
            "\n{}: run {}, {} over {} connections, {} payloads of {} bytes a request, {} {}",
            self.name,
            self.run,
            load.rate,
            load.connections,
            load.payloads_per_request,
            load.payload_size,
            load.encoding,
            load.form
        )?;
        writeln!(f, "\nrequests")?;
        let statuses: Vec<_> = self.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        row(f, "answered", &format!("{:.0}/s for {:.1} s", self.requests_per_second, self.seconds))?;
        row(f, "by status", &statuses.join(", "))?;
        row(f, "unanswered, never sent", &format!("{}, {}", self.unanswered, self.unsent))?;
        row(f, "connections, failed", &format!("{}, {}", self.connects.0, self.connects.1))?;
        row(f, "latency accepted", &quantiles(&self.accepted))?;
        if self.refused.max > 0 {
            row(f, "latency refused", &quantiles(&self.refused))?;
        }
        if load.rate != Rate::UNPACED.to_string() {
            row(f, "sent late by", &quantiles(&self.late))?;
        }
        row(f, "CPU of loadtest itself", &format!("{:.2} us a request", self.own_cpu_micros_per_request))?;
        if let Some(server) = &self.server {
            let cpu = (server.cpu_micros_per_request, server.cpu_micros_per_payload, server.cpu_seconds);
            writeln!(f, "\nserver")?;
            row(f, "CPU", &format!("{:.2} us a request, {:.3} us a payload, {:.2} s in all", cpu.0, cpu.1, cpu.2))?;
            row(f, "peak memory", &show_size(server.peak_memory))?;
            let killed = if server.exit.killed { ", killed after the limit" } else { "" };
            row(f, "end", &format!("{} after {:.2} s{killed}", server.exit.status, server.exit.seconds))?;
        }
        if let Some(s3) = &self.s3 {
            writeln!(f, "\nS3")?;
            row(f, "PUTs", &format!("{}, {} stored, {} at once at most", s3.puts, s3.stored, s3.in_flight_peak))?;
            let faults: Vec<_> = s3.faults.iter().map(|(name, count)| format!("{name}: {count}")).collect();
            row(f, "faults", &if faults.is_empty() { "none".to_owned() } else { faults.join(", ") })?;
        }
        if let Some(objects) = &self.objects {
            writeln!(f, "\nstore")?;
            row(f, "objects", &objects.to_string())?;
        }
        writeln!(f, "\npayloads{}", if self.checked { "" } else { " (no store was read)" })?;
        write!(f, "{}", self.ledger)
    }
}

pub(crate) fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<26}{value}")
}

pub(crate) fn quantiles(of: &Quantiles) -> String {
    let [p50, p90, p99, p99_9, max] = [of.p50, of.p90, of.p99, of.p99_9, of.max].map(show_micros);
    format!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}")
}
