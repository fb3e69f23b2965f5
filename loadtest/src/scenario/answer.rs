//! The answer to a scenario's question, in a line.

use loadtest::proof::Verdict;
use loadtest::report::Report;
use loadtest::units::{show_micros, show_size};
use serde::Serialize;

use super::file::Pass;

/// Requests without an answer, or never sent, up to this share of all do not belong to the quickest 99%.
const LAST_SHARE: f64 = 0.01;

/// A refusal's CPU is what is left when that of the acceptances has been taken away. Fewer refusals than acceptances would
/// bear the error of all of these; and the CPU is told in ticks of 10 ms, which over so many refusals are 1 us each.
const ENOUGH_REFUSALS: u64 = 10_000;

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
            format!("p99 {}", p99(report)),
            format!("{:.2} cores", cores(report)),
            format!("peak memory {}", show_size(peak_memory(report))),
            format!("{} refused, {} unanswered, {} never sent", refused(report), report.unanswered, report.unsent),
            format!("{} payloads accepted, {} lost", report.ledger.accepted, report.ledger.lost),
        ];
        Self::new(&seen, &misses(report, pass))
    }

    pub(super) fn of_overload(overload: &Overload, pass: &Pass) -> Self {
        let peak = overload.peak.accepted_per_second();
        let acceptance = cpu_per_answer(&overload.half);
        let mut seen = vec![format!("peak {peak:.0} accepted/s")];
        let mut wrong = Vec::new();
        for report in [&overload.peak, &overload.half] {
            // Only where it is measured may it refuse: at half of its peak there is no reason to.
            let refusals = std::ptr::eq(report, &overload.peak);
            wrong.extend(misses(report, &Pass { refusals, ..Pass::default() }));
        }
        for (times, report) in &overload.beyond {
            let share = report.accepted_per_second() / peak.max(f64::MIN_POSITIVE);
            let refusal = cpu_per_refusal(report, acceptance);
            let told = match refusal {
                Some(micros) => format!("a refusal {micros:.1} us of CPU"),
                None => "too few refusals to tell what one costs".to_owned(),
            };
            seen.push(format!("at {times}x {:.0}% of it, p99 {}, {told}", share * 100.0, p99(report)));
            wrong.extend(misses(report, &Pass { refusals: true, ..pass.clone() }));
            if let Some(least) = pass.peak_share.filter(|least| share < *least) {
                wrong.push(format!("at {times}x it accepts less than {:.0}% of its peak", least * 100.0));
            }
            if let (Some(most), Some(micros)) = (pass.refusal_share, refusal)
                && micros >= most * acceptance
            {
                wrong.push(format!("at {times}x a refusal costs {:.0}% of an acceptance or more", most * 100.0));
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
        let wrong = if verdict.failed() { vec!["the proof has failed, see below".to_owned()] } else { Vec::new() };
        Self::new(&seen, &wrong)
    }
}

/// What of a load is not as it has to be.
fn misses(report: &Report, pass: &Pass) -> Vec<String> {
    let mut wrong = Vec::new();
    if report.failed() {
        wrong.push("the ledger or the server's end is wrong, or nothing was answered, see below".to_owned());
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
    if let Some(limit) = pass.cores.filter(|limit| cores(report) > *limit) {
        wrong.push(format!("it takes more than {limit} cores"));
    }
    if let Some(limit) = pass.memory.map(|limit| limit as u64).filter(|limit| peak_memory(report) > *limit) {
        wrong.push(format!("it takes more than {}", show_size(limit)));
    }
    if report.accepted_requests() == 0 {
        wrong.push("nothing was accepted".to_owned());
    }
    wrong
}

fn refused(report: &Report) -> u64 {
    report.answered_requests() - report.accepted_requests()
}

fn p99(report: &Report) -> String {
    if report.accepted_requests() > 0 { show_micros(report.accepted.p99) } else { "-".to_owned() }
}

/// The server's CPU during the load, in cores.
fn cores(report: &Report) -> f64 {
    cpu_per_answer(report) * report.answered_requests() as f64 / 1e6 / report.seconds.max(f64::MIN_POSITIVE)
}

/// In bytes.
fn peak_memory(report: &Report) -> u64 {
    report.server.as_ref().map_or(0, |server| server.peak_memory)
}

/// The server's CPU for each answered request, in microseconds.
fn cpu_per_answer(report: &Report) -> f64 {
    report.server.as_ref().map_or(0.0, |server| server.cpu_micros_per_request)
}

/// The server's CPU for each refusal, in microseconds, if an acceptance takes as much as where nothing is refused; `None`
/// where there were too few refusals to tell.
fn cpu_per_refusal(report: &Report, acceptance: f64) -> Option<f64> {
    let (accepted, refused) = (report.accepted_requests(), refused(report));
    if refused < ENOUGH_REFUSALS || refused < accepted {
        return None;
    }
    let all = cpu_per_answer(report) * (accepted + refused) as f64;
    Some(((all - accepted as f64 * acceptance) / refused as f64).max(0.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::sample::report;

    /// Ten seconds with so many answers, and a server that took so many microseconds for all of them together.
    fn measured(accepted: u64, refused: u64, cpu_micros: f64) -> Report {
        let mut report = report();
        report.statuses = BTreeMap::from([(202, accepted), (503, refused)]);
        report.server.as_mut().unwrap().cpu_micros_per_request = cpu_micros / (accepted + refused) as f64;
        report
    }

    fn overload(refused: u64, refusal: f64) -> Answer {
        let peak = measured(20_000, 0, 20_000.0 * 40.0);
        let half = measured(10_000, 0, 10_000.0 * 40.0);
        let beyond = vec![(5.0, measured(20_000, refused, 20_000.0 * 40.0 + refused as f64 * refusal))];
        let pass = Pass { refusal_share: Some(0.5), peak_share: Some(0.9), ..Pass::default() };
        Answer::of_overload(&Overload { peak, half, beyond }, &pass)
    }

    #[test]
    fn a_refusal_has_to_be_cheaper_than_the_share_of_an_acceptance() {
        let cheap = overload(80_000, 19.0);
        assert!(cheap.holds && cheap.text.contains("a refusal 19.0 us of CPU"), "{}", cheap.text);
        let dear = overload(80_000, 21.0);
        assert!(
            !dear.holds && dear.text.contains("at 5x a refusal costs 50% of an acceptance or more"),
            "{}",
            dear.text
        );
    }

    #[test]
    fn where_there_were_few_refusals_their_cost_is_not_judged_and_that_is_said() {
        for few in [9_999, 19_999] {
            let answer = overload(few, 100.0);
            assert!(answer.holds && answer.text.contains("too few refusals to tell"), "{}", answer.text);
        }
    }

    #[test]
    fn cpu_and_memory_are_held_to_their_bounds() {
        // A second of CPU in ten is a tenth of a core.
        let report = measured(10_000, 0, 1e6);
        let answer = |pass: Pass| Answer::of_load(&report, &pass);
        let within = Pass { cores: Some(0.11), memory: Some(40 << 20), ..Pass::default() };
        assert!(answer(within).holds);
        let text = answer(Pass { cores: Some(0.09), ..Pass::default() }).text;
        assert!(text.contains("more than 0.09 cores") && text.contains("0.10 cores"), "{text}");
        let text = answer(Pass { memory: Some((40 << 20) - 1), ..Pass::default() }).text;
        assert!(text.contains("it takes more than 40.0 MiB"), "{text}");
        assert!(!answer(Pass { p99: Some(Duration::from_micros(1)), ..Pass::default() }).holds);
    }

    #[test]
    fn without_an_answer_nothing_holds_and_there_is_no_latency() {
        let mut report = report();
        report.statuses.clear();
        report.unsent = 100;
        let answer = Answer::of_load(&report, &Pass::default());
        assert!(!answer.holds && answer.text.contains("p99 -"), "{}", answer.text);
    }
}
