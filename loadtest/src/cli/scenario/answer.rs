//! The answer to a scenario's question, in a line.

use super::limits::Pass;
use crate::report::{Conclusion, Report};
use crate::units::{show_micros, show_size};

/// With more than this share of requests unanswered or never sent, the 99th percentile has no bound.
pub(super) const LAST_SHARE: f64 = 0.01;

/// A rejection's CPU is the rest after that of the acceptances. With fewer rejections than acceptances it would have the
/// error of all of these; and CPU is in ticks of 10 ms, which over this many rejections are 1 us each.
const ENOUGH_REJECTIONS: u64 = 10_000;

/// The reports of an overload: the server as fast as it can, at half of that, and at multiples of it.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) peak: Report,
    pub(super) half: Report,
    pub(super) beyond: Vec<(f64, Report)>,
}

pub(super) fn conclusion(question: &str, seen: &[String], misses: &[String]) -> Conclusion {
    let (seen, holds) = (seen.join("; "), misses.is_empty());
    let answer = if holds { seen } else { format!("{} ({seen})", misses.join("; ")) };
    Conclusion { question: question.to_owned(), holds, answer }
}

pub(super) fn of_load(question: &str, report: &Report, pass: &Pass) -> Conclusion {
    let seen = [
        format!("{:.0} requests/s answered", report.requests_per_second),
        format!("p99 {}", p99(report)),
        format!("{:.2} cores", report.cores().unwrap_or_default()),
        format!("peak memory {}", show_size(peak_memory(report))),
        format!("{} rejected, {} unanswered, {} never sent", rejected(report), report.unanswered, report.unsent),
        format!(
            "{} payloads accepted, {} lost",
            report.payloads.accepted,
            report.ledger.map_or_else(|| "not checked which".to_owned(), |totals| totals.lost.to_string())
        ),
    ];
    conclusion(question, &seen, &misses(report, pass))
}

pub(super) fn of_overload(question: &str, overload: &Overload, pass: &Pass) -> Conclusion {
    let peak = overload.peak.accepted_per_second();
    let acceptance = cpu_per_response(&overload.half);
    let mut seen = vec![format!("peak {peak:.0} accepted/s")];
    // Only at its peak may it reject: at half of that there is no reason to.
    let mut wrong = misses(&overload.peak, &Pass { rejections: true, ..Pass::default() });
    wrong.extend(misses(&overload.half, &Pass::default()));
    for (times, report) in &overload.beyond {
        let share = report.accepted_per_second() / peak.max(f64::MIN_POSITIVE);
        let rejection = cpu_per_rejection(report, acceptance);
        let shown = match rejection {
            Some(micros) => format!("a rejection {micros:.1} us of CPU"),
            None => "too few rejections to measure one".to_owned(),
        };
        seen.push(format!("at {times}x {:.0}% of it, p99 {}, {shown}", share * 100.0, p99(report)));
        wrong.extend(misses(report, &Pass { rejections: true, ..pass.clone() }));
        if let Some(least) = pass.peak_share.filter(|least| share < *least) {
            wrong.push(format!("at {times}x it accepts less than {:.0}% of its peak", least * 100.0));
        }
        if let (Some(most), Some(micros)) = (pass.rejection_share, rejection)
            && micros >= most * acceptance
        {
            wrong.push(format!("at {times}x a rejection costs {:.0}% of an acceptance or more", most * 100.0));
        }
    }
    seen.push(format!("an acceptance {acceptance:.1} us"));
    conclusion(question, &seen, &wrong)
}

/// The limits that a load misses.
pub(super) fn misses(report: &Report, pass: &Pass) -> Vec<String> {
    let mut misses = Vec::new();
    let mut miss = |is_missed: bool, what: String| {
        if is_missed {
            misses.push(what);
        }
    };
    miss(report.failed(), "the ledger or the server's exit is wrong, or nothing was answered, see below".to_owned());
    let rejected = rejected(report);
    miss(!pass.rejections && rejected > 0, format!("{rejected} requests were rejected"));
    let missing = report.unanswered + report.unsent;
    let all = report.answered_requests() + missing;
    let is_unbounded = !is_bounded(report, LAST_SHARE);
    miss(is_unbounded, format!("{missing} of {all} requests were never sent or got no response, so p99 has no bound"));
    if let Some(limit) = pass.p99 {
        miss(u128::from(report.accepted.p99) > limit.as_micros(), format!("p99 is over {limit:?}"));
    }
    if let Some(limit) = pass.cores {
        miss(report.cores().is_some_and(|cores| cores > limit), format!("it takes more than {limit} cores"));
    }
    if let Some(limit) = pass.memory.map(|limit| limit as u64) {
        miss(peak_memory(report) > limit, format!("it takes more than {}", show_size(limit)));
    }
    miss(report.accepted_requests() == 0, "nothing was accepted".to_owned());
    misses
}

/// Whether at most this share of the requests has no response. With more, the quantile that has this share above it has no
/// bound.
pub(super) fn is_bounded(report: &Report, share: f64) -> bool {
    let missing = report.unanswered + report.unsent;
    missing as f64 <= share * (report.answered_requests() + missing) as f64
}

pub(super) fn rejected(report: &Report) -> u64 {
    report.answered_requests() - report.accepted_requests()
}

fn p99(report: &Report) -> String {
    if report.accepted_requests() > 0 { show_micros(report.accepted.p99) } else { "-".to_owned() }
}

/// In bytes.
fn peak_memory(report: &Report) -> u64 {
    report.server.as_ref().map_or(0, |server| server.peak_memory)
}

/// The server's CPU for each response, in microseconds.
pub(super) fn cpu_per_response(report: &Report) -> f64 {
    report.server.as_ref().map_or(0.0, |server| server.cpu_micros_per_request)
}

/// The server's CPU for each rejection, in microseconds, if an acceptance takes as much as where nothing is rejected; `None`
/// with too few rejections.
fn cpu_per_rejection(report: &Report, acceptance: f64) -> Option<f64> {
    let (accepted, rejected) = (report.accepted_requests(), rejected(report));
    if rejected < ENOUGH_REJECTIONS || rejected < accepted {
        return None;
    }
    let all = cpu_per_response(report) * (accepted + rejected) as f64;
    Some(((all - accepted as f64 * acceptance) / rejected as f64).max(0.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::report::sample;

    /// Ten seconds with these responses, and the CPU of a server for all of them together.
    fn measured(accepted: u64, rejected: u64, cpu_micros: f64) -> Report {
        let mut report = sample();
        report.statuses = BTreeMap::from([(202, accepted), (503, rejected)]);
        report.server.as_mut().unwrap().cpu_micros_per_request = cpu_micros / (accepted + rejected) as f64;
        report
    }

    fn overload(rejected: u64, rejection: f64) -> Conclusion {
        let peak = measured(20_000, 0, 20_000.0 * 40.0);
        let half = measured(10_000, 0, 10_000.0 * 40.0);
        let cpu = 20_000.0 * 40.0 + rejected as f64 * rejection;
        let beyond = vec![(5.0, measured(20_000, rejected, cpu))];
        let pass = Pass { rejection_share: Some(0.5), peak_share: Some(0.9), ..Pass::default() };
        of_overload("?", &Overload { peak, half, beyond }, &pass)
    }

    #[test]
    fn a_rejection_has_to_be_cheaper_than_the_share_of_an_acceptance() {
        let cheap = overload(80_000, 19.0);
        assert!(cheap.holds && cheap.answer.contains("a rejection 19.0 us of CPU"), "{cheap}");
        let dear = overload(80_000, 21.0);
        assert!(!dear.holds && dear.answer.contains("at 5x a rejection costs 50% of an acceptance or more"), "{dear}");
    }

    #[test]
    fn the_cost_of_few_rejections_is_not_judged() {
        for few in [9_999, 19_999] {
            let answer = overload(few, 100.0);
            assert!(answer.holds && answer.answer.contains("too few rejections to measure one"), "{answer}");
        }
    }

    #[test]
    fn cpu_memory_and_latency_have_limits() {
        // A second of CPU in ten is a tenth of a core.
        let report = measured(10_000, 0, 1e6);
        let answer = |pass: Pass| of_load("?", &report, &pass);
        assert!(answer(Pass { cores: Some(0.11), memory: Some(40 << 20), ..Pass::default() }).holds);
        let text = answer(Pass { cores: Some(0.09), ..Pass::default() }).answer;
        assert!(text.contains("more than 0.09 cores") && text.contains("0.10 cores"), "{text}");
        let text = answer(Pass { memory: Some((40 << 20) - 1), ..Pass::default() }).answer;
        assert!(text.contains("it takes more than 40.0 MiB"), "{text}");
        assert!(!answer(Pass { p99: Some(Duration::from_micros(1)), ..Pass::default() }).holds);
    }

    #[test]
    fn without_a_response_nothing_holds_and_there_is_no_latency() {
        let report = Report { statuses: BTreeMap::new(), unsent: 100, ..sample() };
        let answer = of_load("?", &report, &Pass::default());
        assert!(!answer.holds && answer.answer.contains("p99 -"), "{answer}");
    }
}
