//! The answer to a scenario's question, in a line.

use loadtest::proof::Verdict;
use loadtest::report::Report;
use loadtest::units::show_micros;
use serde::Serialize;

use super::file::Pass;

/// Requests without an answer, or never sent, up to this share of all do not belong to the quickest 99%.
const LAST_SHARE: f64 = 0.01;

/// Whether what was asked holds, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Answer {
    pub(super) holds: bool,
    pub(super) text: String,
}

/// What an overload has shown: the server as fast as it can, at half of that, and at multiples of it.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) peak: Report,
    pub(super) half: Report,
    pub(super) beyond: Vec<(f64, Report)>,
}

impl Answer {
    fn new(seen: &[String], wrong: &[String]) -> Self {
        let text =
            if wrong.is_empty() { seen.join("; ") } else { format!("{} ({})", wrong.join("; "), seen.join("; ")) };
        Self { holds: wrong.is_empty(), text }
    }

    pub(super) fn of_load(report: &Report, pass: &Pass) -> Self {
        let seen = [
            format!("{:.0} requests/s answered", report.requests_per_second),
            format!("p99 {}", show_micros(report.accepted.p99)),
            format!("{} refused, {} unanswered, {} never sent", refused(report), report.unanswered, report.unsent),
            format!("{} payloads accepted, {} lost", report.ledger.accepted, report.ledger.lost),
        ];
        Self::new(&seen, &misses(report, pass))
    }

    pub(super) fn of_overload(overload: &Overload, pass: &Pass) -> Self {
        let peak = accepted_per_second(&overload.peak);
        let acceptance = cpu_per_answer(&overload.half);
        let mut seen = vec![format!("peak {peak:.0} accepted/s")];
        let mut wrong = Vec::new();
        for report in [&overload.peak, &overload.half] {
            // Only where it is measured may it refuse: at half of its peak there is no reason to.
            let refusals = std::ptr::eq(report, &overload.peak);
            wrong.extend(misses(report, &Pass { refusals, ..Pass::default() }));
        }
        for (times, report) in &overload.beyond {
            let share = accepted_per_second(report) / peak.max(f64::MIN_POSITIVE);
            let refusal = cpu_per_refusal(report, acceptance);
            seen.push(format!(
                "at {times}x {:.0}% of it, p99 {}, a refusal {refusal:.1} us of CPU",
                share * 100.0,
                show_micros(report.accepted.p99)
            ));
            wrong.extend(misses(report, &Pass { refusals: true, ..pass.clone() }));
            if let Some(least) = pass.peak_share.filter(|least| share < *least) {
                wrong.push(format!("at {times}x it accepts less than {:.0}% of its peak", least * 100.0));
            }
        }
        seen.push(format!("an acceptance {acceptance:.1} us"));
        Self::new(&seen, &wrong)
    }

    pub(super) fn of_proof(verdict: &Verdict) -> Self {
        let (starts, kills, stops) = verdict.servers;
        let ledger = &verdict.ledger;
        let seen = [
            format!("{starts} servers started, {kills} killed, {stops} stopped"),
            format!("{} payloads accepted, {} lost, {} duplicated", ledger.accepted, ledger.lost, ledger.duplicated),
            format!("{} of {} receipts lead to their objects", verdict.jobs.stored, verdict.jobs.asked),
        ];
        let wrong = if verdict.failed() { vec!["the proof has failed, see above".to_owned()] } else { Vec::new() };
        Self::new(&seen, &wrong)
    }
}

/// What of a load is not as it has to be.
fn misses(report: &Report, pass: &Pass) -> Vec<String> {
    let mut wrong = Vec::new();
    if report.failed() {
        wrong.push("the ledger or the server's end is wrong, see above".to_owned());
    }
    if !pass.refusals && refused(report) > 0 {
        wrong.push(format!("{} requests were refused", refused(report)));
    }
    let missing = report.unanswered + report.unsent;
    let all = report.statuses.values().sum::<u64>() + missing;
    if missing as f64 > LAST_SHARE * all as f64 {
        wrong.push(format!("{missing} of {all} requests were not answered, so p99 has no bound"));
    }
    if let Some(limit) = pass.p99.filter(|limit| u128::from(report.accepted.p99) > limit.as_micros()) {
        wrong.push(format!("p99 is over {limit:?}"));
    }
    if accepted(report) == 0 {
        wrong.push("nothing was accepted".to_owned());
    }
    wrong
}

fn accepted(report: &Report) -> u64 {
    report.statuses.range(200..300).map(|(_, count)| count).sum()
}

fn refused(report: &Report) -> u64 {
    report.statuses.values().sum::<u64>() - accepted(report)
}

fn accepted_per_second(report: &Report) -> f64 {
    accepted(report) as f64 / report.seconds.max(f64::MIN_POSITIVE)
}

/// The server's CPU for each answered request, in microseconds.
fn cpu_per_answer(report: &Report) -> f64 {
    report.server.as_ref().map_or(0.0, |server| server.cpu_micros_per_request)
}

/// The server's CPU for each refusal, in microseconds, if an acceptance takes as much as where nothing is refused.
fn cpu_per_refusal(report: &Report, acceptance: f64) -> f64 {
    let (accepted, refused) = (accepted(report) as f64, refused(report) as f64);
    let all = cpu_per_answer(report) * (accepted + refused);
    if refused == 0.0 { 0.0 } else { ((all - accepted * acceptance) / refused).max(0.0) }
}
