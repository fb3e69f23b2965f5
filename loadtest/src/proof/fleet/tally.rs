//! What clients were told while one kind of failure happened, and what of it is a finding.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Failure;
use crate::proof::phase::{ClientPhase, Phase};
use crate::report::row;
use crate::units::show_micros;

/// The rounds of one kind of failure.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Tally {
    /// `None` is a phase in which nothing fails.
    pub failure: Option<Failure>,
    pub rounds: u32,
    /// Requests that were sent.
    pub requests: u64,
    /// With a 503.
    pub unavailable: u64,
    /// Sent, without a response.
    pub unanswered: u64,
    /// Attempts to connect that failed, of which there are many while a front end is away.
    pub not_connected: u64,
    /// Failures that are not allowed.
    pub findings: u64,
    /// The longest time from the end of a failure until the fleet was as before, in seconds.
    pub longest_recovery: f64,
    /// Latency of accepted requests in the worst round, in microseconds.
    pub p99: u64,
    pub max: u64,
}

impl Tally {
    pub(super) fn new(failure: Option<Failure>) -> Self {
        let (rounds, [requests, unavailable, unanswered, not_connected, findings, p99, max]) = Default::default();
        let longest_recovery = 0.0;
        Self { failure, rounds, requests, unavailable, unanswered, not_connected, findings, longest_recovery, p99, max }
    }

    /// Adds a round, in which clients of `cut_off` may get no response.
    pub(super) fn add(&mut self, phase: &Phase, cut_off: Option<&str>, recovery: Duration) {
        self.rounds += 1;
        for client in &phase.clients {
            self.requests += client.count(|_| true) + client.unanswered;
            self.unavailable += client.count(|status| status == 503);
            self.unanswered += client.unanswered;
            self.not_connected += client.not_connected;
            self.findings += self.findings_of(client, cut_off);
        }
        self.longest_recovery = self.longest_recovery.max(recovery.as_secs_f64());
        self.p99 = self.p99.max(phase.accepted.p99);
        self.max = self.max.max(phase.accepted.max);
    }

    /// A 503 is allowed while something fails, and nothing else: a front end that is up responds.
    fn findings_of(&self, client: &ClientPhase, cut_off: Option<&str>) -> u64 {
        let wrong = client.count(|status| status >= 300 && status != 503);
        let unavailable = if self.failure.is_some() { 0 } else { client.count(|status| status == 503) };
        let is_cut_off = cut_off == Some(client.name.as_str());
        wrong + unavailable + if is_cut_off { 0 } else { client.unanswered + client.not_connected }
    }

    fn name(&self) -> String {
        self.failure.map_or_else(|| "nothing fails".to_owned(), Failure::name)
    }

    /// What is wrong, in words.
    pub(super) fn wrong(&self) -> Option<String> {
        (self.findings > 0).then(|| format!("{}: {} requests failed that may not", self.name(), self.findings))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, requests, unavailable, unanswered, not_connected, longest_recovery, .. } = self;
        let [p99, max] = [self.p99, self.max].map(show_micros);
        let mut text = format!(
            "{rounds} rounds, {requests} requests, 503: {unavailable}, unanswered: {unanswered}, not connected: {not_connected}, \
             recovered in {longest_recovery:.1} s, p99 {p99}, max {max}"
        );
        if self.findings > 0 {
            text += &format!(", not allowed: {}  <- must be 0", self.findings);
        }
        row(f, &self.name(), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Quantiles;
    use crate::proof::Tolerance;

    fn client(name: &str, statuses: &[(u16, u64)], unanswered: u64) -> ClientPhase {
        ClientPhase {
            name: name.to_owned(),
            statuses: statuses.iter().copied().collect(),
            unanswered,
            connections: 0,
            not_connected: 0,
            sent_again: 0,
            unsent: 0,
            accepted: Quantiles::default(),
            first_error: None,
        }
    }

    fn findings(failure: Option<Failure>, cut_off: Option<&str>, clients: Vec<ClientPhase>) -> u64 {
        let phase = Phase {
            name: String::new(),
            tolerance: Tolerance::Everything,
            seconds: 1.0,
            requests_per_second: 1.0,
            failed: 0,
            findings: 0,
            accepted: Quantiles::default(),
            clients,
        };
        let mut tally = Tally::new(failure);
        tally.add(&phase, cut_off, Duration::ZERO);
        assert_eq!(tally.wrong().is_some(), tally.findings > 0);
        tally.findings
    }

    #[test]
    fn a_503_is_a_finding_only_while_nothing_fails() {
        let clients = || vec![client("front-1", &[(202, 9), (503, 2)], 0)];
        assert_eq!(findings(Some(Failure::NodeKilled), None, clients()), 0);
        assert_eq!(findings(None, None, clients()), 2);
    }

    #[test]
    fn any_other_status_is_a_finding() {
        for status in [400, 413, 429, 500, 502, 504] {
            let clients = vec![client("front-1", &[(202, 9), (status, 3)], 0)];
            assert_eq!(findings(Some(Failure::FrontKilled), Some("front-1"), clients), 3, "{status}");
        }
    }

    #[test]
    fn only_the_front_end_that_is_away_may_leave_requests_unanswered() {
        let clients = || vec![client("front-1", &[(202, 9)], 4), client("front-2", &[(202, 9)], 2)];
        assert_eq!(findings(Some(Failure::FrontLost), Some("front-1"), clients()), 2);
        assert_eq!(findings(Some(Failure::FrontLost), Some("front-2"), clients()), 4);
        assert_eq!(findings(Some(Failure::NodeKilled), None, clients()), 6);
    }
}
