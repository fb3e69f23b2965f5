//! Ratios to the floor: the limits of a scenario, the runs of both, and the answer.
use super::answer::{LAST_SHARE, conclusion, cpu_per_response, is_bounded, misses, rejected};
use super::limits::{FloorLimits, Pass};
use crate::baseline::Baseline;
use crate::diff::{Diff, Rounds};
use crate::report::{Conclusion, Report};
use crate::stats::median;

/// With more than this share of requests unanswered or never sent, the 99.9th percentile has no bound.
const LAST_SHARE_P999: f64 = 0.001;

/// The runs at one rate.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) limits: FloorLimits,
    /// Of each round, the floor and the server.
    pub(super) rounds: Vec<[Report; 2]>,
}

/// A figure whose ratio is limited.
struct Figure {
    name: &'static str,
    limit: fn(&FloorLimits) -> Option<f64>,
    of: fn(&Report) -> Option<f64>,
}

const FIGURES: [Figure; 3] = [
    Figure { name: "CPU a request", limit: |limits| limits.cpu, of: |report| Some(cpu_per_response(report)) },
    Figure { name: "p99", limit: |limits| limits.p99, of: p99 },
    Figure { name: "p99.9", limit: |limits| limits.p999, of: p999 },
];

fn p99(report: &Report) -> Option<f64> {
    is_bounded(report, LAST_SHARE).then_some(report.accepted.p99 as f64)
}

fn p999(report: &Report) -> Option<f64> {
    is_bounded(report, LAST_SHARE_P999).then_some(report.accepted.p99_9 as f64)
}

impl Measured {
    /// The figures of both.
    pub(super) fn diff(&self) -> Diff {
        let [floor, server] = [0, 1].map(|side| self.rounds.iter().map(|round| &round[side]).collect::<Vec<_>>());
        let name = format!("{} at {}/s  ->  server", Baseline::Floor.name(), self.limits.rate);
        Diff::new(name, &floor, &server, Rounds::Paired)
    }

    /// The median over the rounds of the server's figure as a multiple of the floor's in the same round. A round without
    /// one of the figures counts as above every limit. `None` if the median is such a round.
    fn ratio(&self, of: fn(&Report) -> Option<f64>) -> Option<f64> {
        let ratio = |[floor, server]: &[Report; 2]| match (of(floor), of(server)) {
            (Some(floor), Some(server)) if floor > 0.0 => server / floor,
            _ => f64::INFINITY,
        };
        median(&self.rounds.iter().map(ratio).collect::<Vec<_>>()).filter(|ratio| ratio.is_finite())
    }

    /// The ratios, and the limits that they exceed.
    fn ratios(&self) -> (String, Vec<String>) {
        let (mut seen, mut misses) = (Vec::new(), Vec::new());
        for Figure { name, limit, of } in &FIGURES {
            let (ratio, limit) = (self.ratio(*of), limit(&self.limits));
            let shown = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            seen.push(match limit {
                Some(limit) => format!("{name} {shown} (at most {limit})"),
                None => format!("{name} {shown}"),
            });
            match (ratio, limit) {
                (Some(ratio), Some(limit)) if ratio > limit => {
                    misses.push(format!(" {name} is more than {limit} times the floor's"));
                }
                (None, Some(_)) => misses
                    .push(format!(" {name} has no ratio: too few responses, or no CPU of the floor, in most rounds")),
                _ => {}
            }
        }
        (seen.join(", "), misses)
    }

    /// What is wrong with single runs.
    fn run_misses(&self, pass: &Pass) -> Vec<String> {
        let mut all = Vec::new();
        for (number, [floor, server]) in (1..).zip(&self.rounds) {
            if floor.failed() || rejected(floor) > 0 {
                all.push(format!(", the floor in round {number}: it failed, or rejected requests"));
            }
            let wrong = misses(server, pass).into_iter();
            all.extend(wrong.map(|what| format!(", the server in round {number}: {what}")));
        }
        all
    }
}

/// The answer: the limits of `pass` are for every run of the server, and the ratios for their medians.
pub(super) fn of_floor(question: &str, all: &[Measured], pass: &Pass) -> Conclusion {
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    for measured in all {
        let at = format!("at {}/s", measured.limits.rate);
        let (ratios, misses) = measured.ratios();
        seen.push(format!("{at}, times the floor's (medians of {} rounds): {ratios}", measured.rounds.len()));
        let misses = misses.into_iter().chain(measured.run_misses(pass));
        wrong.extend(misses.map(|what| format!("{at}{what}")));
    }
    let servers = || all.iter().flat_map(|measured| &measured.rounds).map(|[_, server]| server);
    let accepted: u64 = servers().map(|report| report.payloads.accepted).sum();
    let lost: u64 = servers().filter_map(|report| report.ledger).map(|totals| totals.lost).sum();
    seen.push(format!("{accepted} payloads accepted, {lost} lost"));
    conclusion(question, &seen, &wrong)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::report::sample;

    const LIMITS: FloorLimits = FloorLimits { rate: 500.0, cpu: Some(1.7), p99: Some(4.0), p999: None };

    fn run(cpu: f64, p99: u64) -> Report {
        let mut report = Report { statuses: BTreeMap::from([(202, 5_000)]), ..sample() };
        report.server.as_mut().unwrap().cpu_micros_per_request = cpu;
        report.accepted.p99 = p99;
        report
    }

    /// Of each round, the CPU and the p99 of the floor, and those of the server.
    fn measured(rounds: &[[(f64, u64); 2]]) -> Measured {
        let rounds = rounds.iter().map(|round| round.map(|(cpu, p99)| run(cpu, p99))).collect();
        Measured { limits: LIMITS, rounds }
    }

    fn answer(measured: Measured, pass: &Pass) -> Conclusion {
        of_floor("?", &[measured], pass)
    }

    /// The ratios are 1.5, 1.6 and 1.9 of the CPU and 2, 3 and 5 of the p99. The ratios of the medians would be 1.9 and 2.
    const CLOSE: [[(f64, u64); 2]; 3] =
        [[(10.0, 1_000), (15.0, 2_000)], [(20.0, 100), (38.0, 500)], [(25.0, 1_000), (40.0, 3_000)]];

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_the_rounds() {
        let close = answer(measured(&CLOSE), &Pass::default());
        assert!(close.holds, "{close}");
        let seen = "at 500/s, times the floor's (medians of 3 rounds): CPU a request 1.600 (at most 1.7), p99 3.000 (at most 4), \
                    p99.9 1.000; 149970 payloads accepted, 0 lost";
        assert_eq!(close.answer, seen);
    }

    #[test]
    fn a_ratio_above_its_limit_is_a_no_that_names_it() {
        let mut far = CLOSE;
        far[2][1].1 = 4_100;
        let far = answer(measured(&far), &Pass::default());
        assert!(!far.holds && far.answer.starts_with("at 500/s p99 is more than 4 times the floor's (at 500/s,"));
        let none = answer(measured(&[[(0.0, 100), (1.0, 100)]]), &Pass::default());
        assert!(!none.holds && none.answer.contains("at 500/s CPU a request has no ratio"), "{none}");
    }

    #[test]
    fn every_run_has_to_be_right() {
        let with = |change: fn(&mut [Report; 2])| {
            let mut measured = measured(&CLOSE);
            measured.limits.p999 = Some(5.0);
            change(&mut measured.rounds[1]);
            let answer = answer(measured, &Pass::default());
            assert!(!answer.holds, "{answer}");
            answer.answer
        };
        let lost = with(|[_, server]| server.ledger.as_mut().unwrap().lost = 1);
        assert!(lost.contains("at 500/s, the server in round 2: the ledger") && lost.contains("1 lost"), "{lost}");
        let rejected = with(|[_, server]| server.statuses = BTreeMap::from([(202, 4_999), (503, 1)]));
        assert!(rejected.contains("at 500/s, the server in round 2: 1 requests were rejected"), "{rejected}");
        let floor = with(|[floor, _]| floor.statuses = BTreeMap::from([(400, 5_000)]));
        assert!(floor.contains("at 500/s, the floor in round 2: it failed, or rejected requests"), "{floor}");
        let unsent = with(|[_, server]| server.unsent = 51);
        let why = "at 500/s, the server in round 2: 51 of 5051 requests were never sent or got no response, so p99 has no bound";
        assert!(unsent.contains(why), "{unsent}");
    }

    #[test]
    fn a_round_without_a_bound_counts_as_above_every_limit() {
        let with = |unsent: [u64; 3]| {
            let mut measured = measured(&CLOSE);
            measured.limits.p999 = Some(5.0);
            for (round, unsent) in measured.rounds.iter_mut().zip(unsent) {
                round[0].unsent = unsent;
            }
            answer(measured, &Pass::default())
        };
        assert!(with([6, 0, 0]).holds);
        // The 99th percentile still has a bound.
        let without = with([6, 6, 0]);
        assert!(!without.holds && without.answer.starts_with("at 500/s p99.9 has no ratio: too few responses"));
        assert!(without.answer.contains("p99 3.000 (at most 4), p99.9 - (at most 5)"), "{without}");
    }

    #[test]
    fn the_limits_of_the_server_alone_are_for_every_run_of_it() {
        let pass = Pass { p99: Some(Duration::from_micros(2_500)), ..Pass::default() };
        let answer = answer(measured(&CLOSE), &pass);
        assert!(!answer.holds && answer.answer.starts_with("at 500/s, the server in round 3: p99 is over 2.5ms ("));
    }
}
