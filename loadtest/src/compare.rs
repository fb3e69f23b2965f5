//! The baselines and variants of a server under the same load in turn, so that a ratio is of one machine at one time.

use std::fmt::Write;

use anyhow::Context;
use loadtest::load::{Control, Quantiles};
use loadtest::report::{self, Report};
use loadtest::trial::Target;
use loadtest::units::{show_micros, show_size};

use crate::cli::CompareArgs;
use crate::{output, progress};

/// How one run went. A baseline has promised nothing: what it loses is a figure like the others.
struct Run {
    report: Report,
    promised: bool,
}

/// A figure of each run, of which the table shows the median; `None` where there is no such figure.
struct Column {
    title: &'static str,
    width: usize,
    value: fn(&Run) -> Option<f64>,
    show: fn(f64) -> String,
}

const COLUMNS: [Column; 11] = [
    Column {
        title: "answered/s",
        width: 11,
        value: |run| Some(run.report.requests_per_second),
        show: |rate| format!("{rate:.0}"),
    },
    Column {
        title: "accepted/s",
        width: 11,
        value: |run| Some(run.report.accepted_per_second()),
        show: |rate| format!("{rate:.0}"),
    },
    Column { title: "us/req", width: 8, value: Run::cpu_per_request, show: |micros| format!("{micros:.1}") },
    Column {
        title: "us/payload",
        width: 11,
        value: Run::cpu_per_stored_payload,
        show: |micros| format!("{micros:.2}"),
    },
    Column { title: "p50", width: 10, value: |run| run.latency(|of| of.p50), show: show_time },
    Column { title: "p99", width: 10, value: |run| run.latency(|of| of.p99), show: show_time },
    Column { title: "p99.9", width: 10, value: |run| run.latency(|of| of.p99_9), show: show_time },
    Column {
        title: "memory",
        width: 11,
        value: |run| Some(run.report.server.as_ref()?.peak_memory as f64),
        show: show_bytes,
    },
    Column {
        title: "objects",
        width: 9,
        value: |run| Some(run.report.objects?.count as f64),
        show: |count| format!("{count:.0}"),
    },
    Column { title: "bytes out", width: 11, value: |run| Some(run.report.objects?.bytes as f64), show: show_bytes },
    Column { title: "lost", width: 9, value: Run::lost, show: |count| format!("{count:.0}") },
];

pub(crate) async fn run(args: &CompareArgs) -> anyhow::Result<bool> {
    let control = Control::default();
    output::check(&args.json)?;
    let mut runs = Vec::new();
    let done = crate::interruptible(&control, Box::pin(rounds(args, &control, &mut runs))).await;
    // What has been measured is shown, however it ended.
    if !runs.is_empty() {
        crate::show(&table(&runs)?);
        let reports: Vec<_> = runs.iter().map(|run| &run.report).collect();
        output::write_json(&args.json, &reports)?;
    }
    done?;
    Ok(!runs.iter().any(Run::failed))
}

/// Adds each run as soon as it is over.
async fn rounds(args: &CompareArgs, control: &Control, runs: &mut Vec<Run>) -> anyhow::Result<()> {
    'rounds: for round in 0..args.rounds {
        for trial in args.round(round)? {
            let name = trial.name.clone();
            let promised = !matches!(trial.target, Target::Baseline(_));
            // Each load ends by itself, and all of them when this is interrupted.
            let this = Control { end: control.end.child_token(), ..Control::default() };
            let report =
                Box::pin(progress::watched(trial, this)).await.with_context(|| format!("round {round} of {name}"))?;
            if control.end.is_cancelled() {
                break 'rounds;
            }
            let run = Run { report, promised };
            crate::note(&format!(
                "round {round}  {name:<18}{:>9.0}/s   {}",
                run.report.requests_per_second,
                run.verdict()
            ));
            if run.failed() {
                crate::show(&run.report.to_string());
            }
            runs.push(run);
        }
    }
    Ok(())
}

impl Run {
    fn failed(&self) -> bool {
        self.promised && self.report.failed()
    }

    fn verdict(&self) -> String {
        let exit = self.report.server.as_ref().map(|server| &server.exit);
        match exit {
            _ if self.failed() => "FAILED".to_owned(),
            Some(exit) if exit.code != Some(0) => format!("ended with {}", exit.status),
            _ if !self.report.checked => "stores nothing".to_owned(),
            _ if self.report.ledger.lost > 0 => format!("lost {} payloads", self.report.ledger.lost),
            _ => "holds".to_owned(),
        }
    }

    /// Of accepted requests, if there were any.
    fn latency(&self, of: fn(&Quantiles) -> u64) -> Option<f64> {
        (self.report.accepted_requests() > 0).then(|| of(&self.report.accepted) as f64)
    }

    fn cpu_per_request(&self) -> Option<f64> {
        let server = self.report.server.as_ref()?;
        (self.report.answered_requests() > 0).then_some(server.cpu_micros_per_request)
    }

    /// All that the server used from its start to its end, by what is in the store in the end: a design that answers first
    /// and works later looks cheap by the request.
    fn cpu_per_stored_payload(&self) -> Option<f64> {
        let stored = self.report.ledger.stored;
        let seconds = self.report.server.as_ref()?.cpu_seconds;
        (stored > 0).then(|| seconds * 1e6 / stored as f64)
    }

    fn lost(&self) -> Option<f64> {
        self.report.checked.then_some(self.report.ledger.lost as f64)
    }
}

fn table(runs: &[Run]) -> anyhow::Result<String> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.report.name.as_str()) {
            names.push(&run.report.name);
        }
    }
    let mut table = String::new();
    write!(table, "{:<16}", "medians")?;
    for column in COLUMNS {
        write!(table, "{:>1$}", column.title, column.width)?;
    }
    writeln!(table, "{:>8}{:>8}", "x floor", "failed")?;
    let floor = median(runs, "floor", Run::cpu_per_request).filter(|floor| *floor > 0.0);
    for name in names {
        write!(table, "{name:<16}")?;
        for column in COLUMNS {
            let value = median(runs, name, column.value);
            let shown = value.map_or_else(|| "-".to_owned(), column.show);
            write!(table, "{shown:>0$}", column.width)?;
        }
        let ratio = median(runs, name, Run::cpu_per_request).zip(floor).map(|(micros, floor)| micros / floor);
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let of_name = || runs.iter().filter(|run| run.report.name == name);
        let failed = of_name().filter(|run| run.failed()).count();
        writeln!(table, "{ratio:>8}{:>8}", format!("{failed}/{}", of_name().count()))?;
    }
    Ok(table)
}

/// The median over the runs of that name.
fn median(runs: &[Run], name: &str, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    report::median(runs.iter().filter(|run| run.report.name == name).filter_map(of))
}

fn show_time(micros: f64) -> String {
    show_micros(micros as u64)
}

fn show_bytes(bytes: f64) -> String {
    show_size(bytes as u64)
}
