//! The floor and variants of a server under the same load in turn, so that a ratio is of one machine at one time.

use std::fmt::Write;

use anyhow::Context;
use loadtest::load::Control;
use loadtest::report::Report;
use loadtest::units::{show_micros, show_size};

use crate::cli::CompareArgs;

pub(crate) async fn run(args: &CompareArgs) -> anyhow::Result<bool> {
    let control = Control::default();
    let reports = crate::interruptible(&control, Box::pin(rounds(args, &control))).await?;
    crate::show(&table(&reports)?);
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&reports)?;
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(!reports.iter().any(Report::failed))
}

async fn rounds(args: &CompareArgs, control: &Control) -> anyhow::Result<Vec<Report>> {
    let mut reports: Vec<Report> = Vec::new();
    'rounds: for round in 0..args.rounds {
        for trial in args.round(round)? {
            let name = trial.name.clone();
            // Each load ends by itself, and all of them when this is interrupted.
            let this = Control { end: control.end.child_token(), ..Control::default() };
            let report = Box::pin(trial.run(this, |_| {})).await.with_context(|| format!("round {round} of {name}"))?;
            if control.end.is_cancelled() {
                break 'rounds;
            }
            let verdict = if report.failed() { "FAILED" } else { "holds" };
            crate::note(&format!("round {round}  {name:<16}{:>9.0}/s   {verdict}", report.requests_per_second));
            if report.failed() {
                crate::show(&report.to_string());
            }
            reports.push(report);
        }
    }
    Ok(reports)
}

fn table(reports: &[Report]) -> anyhow::Result<String> {
    let mut names: Vec<&str> = Vec::new();
    for report in reports {
        if !names.contains(&report.name.as_str()) {
            names.push(&report.name);
        }
    }
    let cpu = |report: &Report| report.server.as_ref().map_or(0.0, |server| server.cpu_micros_per_request);
    let memory = |report: &Report| report.server.as_ref().map_or(0.0, |server| server.peak_memory as f64);
    let floor = median(reports, "floor", cpu);
    let mut table = String::new();
    writeln!(
        table,
        "{:<16}{:>6}{:>12}{:>10}{:>9}{:>12}{:>12}{:>12}{:>8}",
        "medians", "runs", "requests/s", "CPU us", "x floor", "p50", "p99", "memory", "failed"
    )?;
    for name in names {
        let of_name = || reports.iter().filter(|report| report.name == name);
        let us = |of: fn(&Report) -> u64| show_micros(median(reports, name, |report| of(report) as f64) as u64);
        writeln!(
            table,
            "{name:<16}{:>6}{:>12.0}{:>10.2}{:>9.2}{:>12}{:>12}{:>12}{:>8}",
            of_name().count(),
            median(reports, name, |report| report.requests_per_second),
            median(reports, name, cpu),
            median(reports, name, cpu) / floor.max(f64::MIN_POSITIVE),
            us(|report| report.accepted.p50),
            us(|report| report.accepted.p99),
            show_size(median(reports, name, memory) as u64),
            of_name().filter(|report| report.failed()).count(),
        )?;
    }
    Ok(table)
}

/// The median over the runs of that name, the lower of the two middle ones if their number is even.
fn median(reports: &[Report], name: &str, of: impl Fn(&Report) -> f64) -> f64 {
    let mut values: Vec<f64> = reports.iter().filter(|report| report.name == name).map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}
