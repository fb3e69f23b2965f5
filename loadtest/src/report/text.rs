//! The report as text, for a terminal.

use std::fmt;

use super::Report;
use crate::load::Quantiles;
use crate::units::{show_counts, show_micros, show_size};

/// Less CPU a request, in microseconds, would be shown as 0.
const LEAST_SHOWN: f64 = 0.005;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(conclusion) = &self.conclusion {
            writeln!(f, "\n{}: {conclusion}", self.name)?;
        }
        let setting = |name: &str| self.settings.get(name).map_or("-", |value| value);
        let [rate, connections, protocol] = ["load rate", "load connections", "load protocol"].map(setting);
        writeln!(f, "\n{}: run {}, {rate} over {connections} connections, {protocol}", self.name, self.run)?;
        writeln!(f, "\nrequests")?;
        row(f, "answered", &format!("{:.0}/s for {:.1} s", self.requests_per_second, self.seconds))?;
        row(f, "by status", &show_counts(&self.statuses))?;
        row(f, "without a response", &self.unanswered.to_string())?;
        if let Some(error) = &self.request_error {
            let hint = if self.statuses.is_empty() { "; is the scheme of --url right?" } else { "" };
            row(f, "first error", &format!("{error}{hint}"))?;
        }
        row(f, "never sent", &self.unsent.to_string())?;
        row(f, "connections", &self.connects.0.to_string())?;
        row(f, "failed connections", &self.connects.1.to_string())?;
        if let Some(error) = &self.connect_error {
            let hint = if error.contains("certificate") { "; give its certificate authority with --ca" } else { "" };
            row(f, "first connection error", &format!("{error}{hint}"))?;
        }
        row(f, "latency accepted", &quantiles(&self.accepted))?;
        if self.rejected.max > 0 {
            row(f, "latency rejected", &quantiles(&self.rejected))?;
        }
        if let Some(late) = &self.late {
            row(f, "sent late by", &quantiles(late))?;
        }
        let per_response = |figure: String| if self.answered_requests() > 0 { figure } else { "-".to_owned() };
        let own = format!("{:.2} us a request", self.own_cpu_micros_per_request);
        row(f, "CPU of loadtest", &per_response(own))?;
        if let Some(server) = &self.server {
            writeln!(f, "\nserver")?;
            let [request, payload] = [server.cpu_micros_per_request, server.cpu_micros_per_payload]
                .map(|micros| per_response(format!("{micros:.2} us")));
            row(f, "CPU", &format!("{request} a request, {payload} a payload, {:.2} s in total", server.cpu_seconds))?;
            let busy = server.threads.iter().filter(|thread| thread.cpu_micros_per_request >= LEAST_SHOWN);
            let threads: Vec<_> = busy.map(ToString::to_string).collect();
            if !threads.is_empty() {
                row(f, "CPU by thread", &per_response(threads.join(", ")))?;
            }
            if let Some(micros) = server.serial_cpu_micros_per_request {
                row(f, "serial CPU a request", &per_response(format!("{micros:.2} us")))?;
            }
            row(f, "peak memory", &show_size(server.peak_memory))?;
            let killed = if server.exit.killed { ", killed after the limit" } else { "" };
            row(f, "exit", &format!("{} after {:.2} s{killed}", server.exit.status, server.exit.seconds))?;
        }
        if let Some(why) = &self.no_metrics {
            row(f, "metrics", &format!("not available: {why}"))?;
        }
        if let Some(s3) = &self.s3 {
            writeln!(f, "\nS3")?;
            row(f, "PUTs", &format!("{}, {} stored, {} at once at most", s3.puts, s3.stored, s3.in_flight_peak))?;
            row(f, "faults", &show_counts(&s3.faults))?;
        }
        if let Some(objects) = &self.objects {
            writeln!(f, "\nstore")?;
            row(f, "objects", &objects.to_string())?;
        }
        writeln!(f, "\npayloads")?;
        match (&self.ledger, &self.not_checked) {
            (Some(totals), None) => write!(f, "{totals}"),
            (Some(totals), Some(why)) => write!(f, "{totals}\nnot checked: {why}\n"),
            (None, why) => {
                write!(f, "{}", self.payloads)?;
                let why = why.as_deref().unwrap_or("no store was read");
                ["stored", "lost, duplicated, corrupt"].iter().try_for_each(|name| row(f, name, "not checked"))?;
                writeln!(f, "\nnot checked: {why}")
            }
        }
    }
}

pub(crate) fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<26}{value}")
}

pub(crate) fn quantiles(of: &Quantiles) -> String {
    if of.max == 0 {
        return "-".to_owned();
    }
    let [p50, p90, p99, p99_9, max] = [of.p50, of.p90, of.p99, of.p99_9, of.max].map(show_micros);
    format!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}")
}

#[cfg(test)]
mod tests {
    use crate::report::{Conclusion, Report, ThreadReport, sample};

    #[test]
    fn the_question_of_a_scenario_and_its_answer_come_first() {
        let (question, answer) = ("Is p99 under 1 ms?".to_owned(), "p99 is over 1ms (p99 1.2 ms)".to_owned());
        let conclusion = Some(Conclusion { question, holds: false, answer });
        let text = Report { conclusion, ..sample() }.to_string();
        assert!(text.starts_with("\nloadtest: Is p99 under 1 ms?\nNO: p99 is over 1ms (p99 1.2 ms)\n"), "{text}");
    }

    #[test]
    fn without_a_check_nothing_is_said_to_be_lost_or_not_lost() {
        let text = Report { ledger: None, not_checked: Some("no --store".to_owned()), ..sample() }.to_string();
        assert!(text.contains("accepted                           49990\n"), "{text}");
        assert!(
            text.contains("lost, duplicated, corrupt not checked\n") && text.ends_with("not checked: no --store\n")
        );
        assert!(sample().to_string().contains("  lost                                   0\n"));
    }

    #[test]
    fn without_a_response_there_is_no_figure_for_each() {
        let text = Report { statuses: [].into(), ..sample() }.to_string();
        assert!(text.contains("- a request, - a payload, 2.00 s in total"), "{text}");
        assert!(text.contains("serial CPU a request      -\n"), "{text}");
    }

    #[test]
    fn threads_are_listed_if_they_used_cpu() {
        let mut report = sample();
        report.server.as_mut().unwrap().threads.push(ThreadReport { name: "idle".to_owned(), ..Default::default() });
        let text = report.to_string();
        let threads =
            "CPU by thread             runtime 30.00 us (2 threads, the busiest 16.00 us), dispatcher 9.00 us\n";
        assert!(text.contains(threads) && text.contains("serial CPU a request      9.00 us\n"), "{text}");
    }
}
