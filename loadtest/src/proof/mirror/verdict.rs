//! The figures of a comparison of mirrors.

use std::fmt;

use serde::Serialize;

use super::OtherSide;
use crate::proof::phase::Phase;
use crate::report::row;
use crate::units::show_micros;

/// The servers of a comparison of mirrors.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MirrorDetails {
    pub mirrors: Vec<Mirrored>,
}

/// The server whose copies go to an other side, over all its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Mirrored {
    pub side: OtherSide,
    pub accepted: u64,
    pub cpu_micros: u64,
    /// The quantiles of accepted requests in each step, in microseconds.
    pub p50: Vec<u64>,
    pub p99: Vec<u64>,
    pub copies: Copies,
}

/// What became of the copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Copies {
    pub sent: u64,
    pub dropped: u64,
    pub failed: u64,
}

impl Mirrored {
    pub(super) fn new(side: OtherSide) -> Self {
        Self { side, accepted: 0, cpu_micros: 0, p50: Vec::new(), p99: Vec::new(), copies: Copies::default() }
    }

    pub(super) fn add(&mut self, phase: &Phase, cpu_micros: u64) {
        self.accepted += phase.accepted_requests();
        self.cpu_micros += cpu_micros;
        self.p50.push(phase.accepted.p50);
        self.p99.push(phase.accepted.p99);
    }

    /// CPU of the server for each accepted request, in microseconds.
    pub fn cpu_per_request(&self) -> f64 {
        self.cpu_micros as f64 / self.accepted.max(1) as f64
    }
}

impl Copies {
    /// The counts in the metrics of a server.
    pub(super) fn of(metrics: &str) -> Self {
        let count = |result: &str| {
            let name = format!("millpond_mirror_total{{result=\"{result}\"}} ");
            let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
            value.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        Self { sent: count("sent"), dropped: count("dropped"), failed: count("failed") }
    }
}

/// The middle one; 0 of none.
fn median(of: &[u64]) -> u64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// How much more or less than without a mirror, in percent.
fn beside(value: f64, off: f64) -> String {
    if off == 0.0 || value == off { String::new() } else { format!(" ({:+.1}%)", (value / off - 1.0) * 100.0) }
}

impl fmt::Display for MirrorDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "medians of the rounds\n")?;
        let off = self.mirrors.iter().find(|mirrored| mirrored.side == OtherSide::Off);
        let times = |of: &Mirrored| [median(&of.p50), median(&of.p99)];
        let ([off_p50, off_p99], off_cpu) = off.map_or(([0; 2], 0.0), |off| (times(off), off.cpu_per_request()));
        for mirrored in &self.mirrors {
            let [p50, p99] = times(mirrored);
            let cpu = mirrored.cpu_per_request();
            let Copies { sent, dropped, failed } = mirrored.copies;
            let text = format!(
                "p50 {}{}, p99 {}{}, CPU {cpu:.1} us a request{}; copies: {sent} sent, {dropped} dropped, {failed} failed",
                show_micros(p50),
                beside(p50 as f64, off_p50 as f64),
                show_micros(p99),
                beside(p99 as f64, off_p99 as f64),
                beside(cpu, off_cpu),
            );
            row(f, &format!("mirror {}", mirrored.side.name()), &text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_by_result_and_without_a_mirror_there_are_none() {
        let metrics = "# TYPE millpond_mirror_total counter\nmillpond_mirror_total{result=\"dropped\"} 2\n\
                       millpond_mirror_total{result=\"failed\"} 0\nmillpond_mirror_total{result=\"sent\"} 40\n";
        assert_eq!(Copies::of(metrics), Copies { sent: 40, dropped: 2, failed: 0 });
        assert_eq!(Copies::of(""), Copies::default());
    }

    #[test]
    fn figures_are_medians_and_stand_beside_those_without_a_mirror() {
        assert_eq!((median(&[3, 1, 9]), median(&[])), (3, 0));
        assert_eq!((beside(105.0, 100.0), beside(1.0, 0.0)), (" (+5.0%)".to_owned(), String::new()));
    }
}
