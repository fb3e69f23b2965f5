//! A phase of a proof with several kinds of clients at once: what each of them was told while something happened to the servers.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use tokio::task::JoinSet;

use super::testbed::Testbed;
use crate::client::Target;
use crate::ledger::Ledger;
use crate::load::{self, Control, Done, Plan, Quantiles, Rate, Tally};
use crate::report::row;
use crate::units::show_micros;

/// Streams of each HTTP/2 connection, and requests of a pipeline.
const STREAMS: u32 = 8;
const PIPELINED: u32 = 4;

/// The share of the rate from which it counts as reached.
const REACHED: f64 = 0.9;

/// A kind of client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    name: String,
    plan: Plan,
}

/// Clients of several kinds that send at the same time, and the ledger of all phases.
#[derive(Debug)]
pub(super) struct Mix {
    clients: Vec<Client>,
    ledger: Ledger,
    next_client: u32,
}

/// What happened in a phase.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Phase {
    pub name: String,
    pub tolerance: Tolerance,
    pub seconds: f64,
    /// Requests that were sent in a second.
    pub requests_per_second: f64,
    pub failed: u64,
    /// Failed requests that are not tolerated.
    pub findings: u64,
    /// Latency of accepted requests of all clients, from when they were due.
    pub accepted: Quantiles,
    pub clients: Vec<ClientPhase>,
}

/// Failed requests that are no findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// None.
    Nothing,
    /// Those with a 503, which a client sends again.
    Unavailable,
    /// All: the process that had them was killed.
    Everything,
}

/// What clients of one kind were told in a phase.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ClientPhase {
    pub name: String,
    pub statuses: BTreeMap<u16, u64>,
    /// Sent, and the connection failed or closed before the response.
    pub unanswered: u64,
    pub connections: u64,
    pub not_connected: u64,
    /// Not processed, as the server said, and sent again. That is no failure.
    pub sent_again: u64,
    /// Due, and not sent before the end of the phase.
    pub unsent: u64,
    pub accepted: Quantiles,
    pub first_error: Option<String>,
}

impl Client {
    pub(super) fn new(name: impl Into<String>, plan: Plan) -> Self {
        Self { name: name.into(), plan }
    }

    /// All kinds together with this plan's rate and about its number of connections: over `plain` keep-alive, with a new
    /// connection for each request, pipelined and HTTP/2; over `tls` keep-alive, with a new connection now and then.
    pub(super) fn all(plan: &Plan, plain: &Target, tls: Option<&Target>) -> Vec<Self> {
        let share = |of: u32| (plan.connections / of).max(1);
        let kinds = if tls.is_some() { 5.0 } else { 4.0 };
        let base = Plan { rate: Rate::steady(plan.rate.steady / kinds), target: plain.clone(), ..plan.clone() };
        let http1 = Plan { connections: share(4), streams: 0, pipelined: 1, new_connections: 0.0, ..base };
        let mut all = vec![
            Self::new("keep-alive", http1.clone()),
            Self::new("new connections", Plan { new_connections: 1.0, ..http1.clone() }),
            Self::new("pipelined", Plan { connections: share(8), pipelined: PIPELINED, ..http1.clone() }),
            Self::new("HTTP/2", Plan { connections: share(16), streams: STREAMS, ..http1.clone() }),
        ];
        all.extend(
            tls.map(|tls| Self::new("TLS", Plan { target: tls.clone(), new_connections: 0.1, ..http1.clone() })),
        );
        all
    }
}

impl Mix {
    /// Sends as these clients do.
    pub(super) fn new(clients: Vec<Client>) -> Self {
        Self { clients, ledger: Ledger::default(), next_client: 0 }
    }

    /// Sends as these clients do from the next phase on.
    pub(super) fn send_as(&mut self, clients: Vec<Client>) {
        self.clients = clients;
    }

    /// Sends to this server from the next phase on.
    pub(super) fn send_to(&mut self, target: &Target) {
        for client in &mut self.clients {
            client.plan.target = target.clone();
        }
    }

    /// Sends while `events` happen, reports what was wrong with the responses, and returns the result of the events.
    /// Errors: the generator failed.
    pub(super) async fn during<T>(
        &mut self,
        testbed: &Testbed<'_>,
        name: &str,
        tolerance: Tolerance,
        events: impl Future<Output = T>,
    ) -> anyhow::Result<(Phase, T)> {
        let end = testbed.control.end.child_token();
        let mut loads = JoinSet::new();
        for (index, client) in self.clients.iter().enumerate() {
            let plan = Plan { first_client: self.next_client, duration: None, requests: None, ..client.plan.clone() };
            self.next_client += plan.clients();
            // The destination of each is that of its plan.
            let receipts = testbed.control.receipts.clone();
            let control = Control { end: end.clone(), receipts, ..Control::default() };
            loads.spawn(async move { (index, Box::pin(load::run(plan, control, |_| {})).await) });
        }
        let start = Instant::now();
        let events = async {
            let result = events.await;
            end.cancel();
            result
        };
        let loads = async {
            let mut done = Vec::new();
            while let Some(load) = loads.join_next().await {
                let (index, load) = load.context("a load failed")?;
                done.push((index, load?));
            }
            anyhow::Ok(done)
        };
        let (done, result) = tokio::join!(loads, events);
        let mut done = done?;
        done.sort_unstable_by_key(|(index, _)| *index);
        let mut all = Tally::new()?;
        let mut clients = Vec::new();
        for (client, (_, Done { ledger, mut tally, .. })) in self.clients.iter().zip(done) {
            clients.push(ClientPhase::new(&client.name, &tally));
            all.take_from(&mut tally);
            self.ledger.append(ledger);
        }
        let seconds = start.elapsed().as_secs_f64();
        let phase = Phase {
            name: name.to_owned(),
            tolerance,
            seconds,
            requests_per_second: (all.answered() + all.unanswered) as f64 / seconds.max(f64::MIN_POSITIVE),
            failed: clients.iter().map(ClientPhase::failed).sum(),
            findings: clients.iter().map(|client| client.findings(tolerance)).sum(),
            accepted: all.accepted.summary(),
            clients,
        };
        testbed.say(&format!("{name}: {} failed", phase.failed));
        phase.wrong().into_iter().for_each(|wrong| testbed.broken(wrong));
        if tolerance == Tolerance::Nothing {
            let rate = self.clients.iter().map(|client| client.plan.rate.steady).sum();
            phase.below(Rate::steady(rate)).into_iter().for_each(|below| testbed.remark(below));
        }
        Ok((phase, result))
    }

    /// The outcome of everything that was sent.
    pub(super) fn into_ledger(self) -> Ledger {
        self.ledger
    }
}

impl Phase {
    /// Requests with a response.
    pub(super) fn answered(&self) -> u64 {
        self.clients.iter().map(|client| client.count(|_| true)).sum()
    }

    /// Requests with a 2xx response.
    pub(super) fn accepted_requests(&self) -> u64 {
        self.clients.iter().map(|client| client.count(|status| status < 300)).sum()
    }

    /// Says that the load was below this rate, if it was.
    fn below(&self, rate: Rate) -> Option<String> {
        let is_below = self.requests_per_second < rate.steady * REACHED;
        is_below
            .then(|| format!("{}: only {:.0} of {rate} were sent: lower --rate", self.name, self.requests_per_second))
    }

    /// What is wrong with it, in words.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.findings > 0 {
            wrong.push(format!("{}: {} requests failed", self.name, self.findings));
        }
        let idle = self.clients.iter().filter(|client| client.count(|status| status < 300) == 0);
        wrong.extend(idle.map(|client| format!("{}: no request of {} was accepted", self.name, client.name)));
        wrong
    }
}

impl ClientPhase {
    fn new(name: &str, tally: &Tally) -> Self {
        Self {
            name: name.to_owned(),
            statuses: tally.statuses.clone(),
            unanswered: tally.unanswered,
            connections: tally.connects,
            not_connected: tally.connect_errors,
            sent_again: tally.sent_again,
            unsent: tally.unsent,
            accepted: tally.accepted.summary(),
            first_error: tally.request_error.clone().or_else(|| tally.connect_error.clone()),
        }
    }

    /// Requests without a 2xx response, and connections that could not be made.
    fn failed(&self) -> u64 {
        self.unanswered + self.not_connected + self.count(|status| status >= 300)
    }

    fn findings(&self, tolerance: Tolerance) -> u64 {
        match tolerance {
            Tolerance::Nothing => self.failed(),
            Tolerance::Unavailable => self.failed() - self.count(|status| status == 503),
            Tolerance::Everything => 0,
        }
    }

    /// Requests whose response has such a status.
    pub(super) fn count(&self, which: impl Fn(u16) -> bool) -> u64 {
        self.statuses.iter().filter(|(status, _)| which(**status)).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p99_9, max] =
            [self.accepted.p50, self.accepted.p99, self.accepted.p99_9, self.accepted.max].map(show_micros);
        let Self { name, seconds, requests_per_second, failed, .. } = self;
        write!(f, "{name}: {seconds:.1} s, {requests_per_second:.0}/s, {failed} failed")?;
        match self.findings {
            0 => writeln!(f)?,
            findings => writeln!(f, ", {findings} of them not allowed  <- must be 0")?,
        }
        row(f, "latency accepted", &format!("p50 {p50}, p99 {p99}, p99.9 {p99_9}, max {max}"))?;
        for client in &self.clients {
            let statuses: Vec<_> = client.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
            let mut text = format!(
                "{}, unanswered: {}, not connected: {} of {}, sent again: {}, p99 {}",
                statuses.join(", "),
                client.unanswered,
                client.not_connected,
                client.connections + client.not_connected,
                client.sent_again,
                show_micros(client.accepted.p99),
            );
            if client.unsent > 0 {
                text += &format!(", never sent: {}", client.unsent);
            }
            row(f, &client.name, &text)?;
            if let Some(error) = &client.first_error {
                row(f, "", &format!("first error: {error}"))?;
            }
        }
        Ok(())
    }
}
