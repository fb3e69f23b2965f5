//! The report as text, for a terminal.

use std::fmt;

use super::{LoadReport, Report};
use crate::load::Quantiles;
use crate::units::{show_micros, show_size};

/// What is shown where there is no figure.
pub(super) const NONE: &str = "-";

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, connections, payloads_per_request, payload_size, encoding, form, .. } = self;
        write!(
            f,
            "{rate} over {connections} connections, {payloads_per_request} payloads of {payload_size} bytes a request, \
             {encoding} {form}"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = &self.load;
        if let Some(conclusion) = &self.conclusion {
            writeln!(f, "\n{}: {conclusion}", self.name)?;
        }
        writeln!(f, "\n{}: run {}, {load}", self.name, self.run)?;
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
        if load.is_paced() {
            row(f, "sent late by", &quantiles(&self.late))?;
        }
        let own = self.per_request(format!("{:.2} us a request", self.own_cpu_micros_per_request));
        row(f, "CPU of loadtest itself", &own)?;
        if let Some(server) = &self.server {
            let request = self.per_request(format!("{:.2} us", server.cpu_micros_per_request));
            let payload = self.per_request(format!("{:.3} us", server.cpu_micros_per_payload));
            writeln!(f, "\nserver")?;
            row(f, "CPU", &format!("{request} a request, {payload} a payload, {:.2} s in all", server.cpu_seconds))?;
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
    if of.max == 0 {
        return NONE.to_owned();
    }
    let [p50, p90, p99, p99_9, max] = [of.p50, of.p90, of.p99, of.p99_9, of.max].map(show_micros);
    format!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}")
}

#[cfg(test)]
mod tests {
    use crate::report::Conclusion;
    use crate::report::sample::report;

    #[test]
    fn the_question_of_a_scenario_and_its_answer_come_first() {
        let (question, answer) = ("Is p99 under 1 ms?".to_owned(), "p99 is over 1ms (p99 1.2 ms)".to_owned());
        let mut report = report();
        report.conclusion = Some(Conclusion { question, holds: false, answer });
        let text = report.to_string();
        let first = "\nloadtest: Is p99 under 1 ms?\nNO: p99 is over 1ms (p99 1.2 ms)\n";
        assert!(text.starts_with(first), "{text}");
    }
}
