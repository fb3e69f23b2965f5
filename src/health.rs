//! Outages of the store, of the spool and of single segments, as `/health` and `/ready` report them.

mod segments;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use segments::{FailingSegments, Side};

use crate::log_throttle::LogThrottle;
use crate::metrics::Ledger;
use crate::store::{ErrorClass, StoreError};

/// An outage is reported when it has lasted this long, since a single failed call is no outage. A permanent error is
/// reported at once.
const REPORTED_AFTER: Duration = Duration::from_secs(3);
/// After an outage of this length, other processes of a fleet may reach the store when this one does not.
const CUT_OFF_AFTER: Duration = Duration::from_secs(10);
/// The interval between log lines about outages of one component. Outages in quick succession share a line, so that a
/// component that fails and recovers again and again does not fill the log.
const OUTAGE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The state behind `/health` and `/ready`.
#[derive(Debug)]
pub struct Health {
    store: Component,
    store_recovered: Notify,
    spool: Component,
    /// Segments that fail while others succeed.
    pub segments: FailingSegments,
    /// The number of waiting jobs, for the log.
    ledger: Arc<Ledger>,
}

/// A period in which every attempt failed.
#[derive(Debug, Clone)]
pub struct Outage {
    /// When the first attempt failed.
    pub since: SystemTime,
    /// The error of the last attempt.
    pub message: String,
    began: Instant,
    failed_attempts: u64,
    /// Whether `/ready` reports it.
    is_reported: bool,
    is_logged: bool,
}

/// What to log about a failed attempt.
#[derive(Debug, PartialEq, Eq)]
enum LogLine {
    OutageBegan,
    OutageLasts,
}

/// The store or the spool.
#[derive(Debug)]
struct Component {
    name: &'static str,
    /// What an outage means for batches and jobs, for the log.
    consequence: &'static str,
    outage: Mutex<Option<Outage>>,
    log: LogThrottle,
}

impl Outage {
    /// The outage after one more failed attempt.
    fn after(before: Option<Self>, message: String, now: Instant) -> Self {
        match before {
            Some(before) => Self { message, failed_attempts: before.failed_attempts + 1, ..before },
            None => Self {
                since: SystemTime::now(),
                message,
                began: now,
                failed_attempts: 1,
                is_reported: false,
                is_logged: false,
            },
        }
    }

    fn has_lasted(&self) -> bool {
        self.began.elapsed() >= REPORTED_AFTER
    }
}

impl Component {
    fn new(name: &'static str, consequence: &'static str) -> Self {
        Self { name, consequence, outage: Mutex::default(), log: LogThrottle::new(OUTAGE_LOG_INTERVAL) }
    }

    /// Records a failed attempt at the time `now`, and logs the outage when that is due. Returns what it has logged.
    fn failed(&self, error: String, is_permanent: bool, ledger: &Ledger, now: Instant) -> Option<LogLine> {
        let mut current = self.outage.lock();
        let mut outage = Outage::after(current.take(), error, now);
        let lasts = now.saturating_duration_since(outage.began);
        outage.is_reported |= is_permanent || lasts >= REPORTED_AFTER;
        let line = if outage.is_logged { LogLine::OutageLasts } else { LogLine::OutageBegan };
        let is_due = outage.is_reported && self.log.permit_at(now).is_some();
        outage.is_logged |= is_due;
        let outage = current.insert(outage).clone();
        drop(current);
        if !is_due {
            return None;
        }
        let (name, error, attempts) = (self.name, outage.message, outage.failed_attempts);
        let waiting = ledger.balance().waiting.jobs;
        if line == LogLine::OutageBegan {
            tracing::error!(error, attempts, waiting, "the {name} is failing; {}", self.consequence);
        } else {
            tracing::warn!(error, attempts, waiting, ?lasts, "the {name} is still failing");
        }
        Some(line)
    }

    /// Ends the outage. Returns whether there was one that was reported.
    fn succeeded(&self) -> bool {
        let Some(outage) = self.outage.lock().take() else { return false };
        if outage.is_logged {
            let (attempts, lasted) = (outage.failed_attempts, outage.began.elapsed());
            tracing::info!(attempts, ?lasted, "the {} has recovered", self.name);
        }
        outage.is_reported
    }

    fn outage(&self) -> Option<Outage> {
        self.outage.lock().as_ref().filter(|outage| outage.is_reported || outage.has_lasted()).cloned()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Arc::default(), "spool")
    }
}

impl Health {
    /// The state without outages. `spool` is what takes commits: `spool` or `broker`.
    pub fn new(ledger: Arc<Ledger>, spool: &'static str) -> Self {
        let store = Component::new("store", "accepted jobs are kept and uploads are retried");
        let spool = Component::new(spool, "batches are rejected until it recovers");
        Self { store, store_recovered: Notify::new(), spool, segments: FailingSegments::default(), ledger }
    }

    /// The store rejected an object or could not be reached.
    pub fn store_failed(&self, error: &StoreError) {
        let is_permanent = error.class == ErrorClass::Permanent;
        self.store.failed(error.message.clone(), is_permanent, &self.ledger, Instant::now());
    }

    /// The store took an object or could be reached.
    pub fn store_succeeded(&self) {
        if self.store.succeeded() {
            self.store_recovered.notify_waiters();
        }
    }

    /// Waits until a reported outage of the store ends.
    pub async fn store_recovered(&self) {
        self.store_recovered.notified().await;
    }

    /// The current outage of the store.
    pub fn store_outage(&self) -> Option<Outage> {
        self.store.outage()
    }

    /// Whether this process does not reach the store, so that others should upload the segments of the broker.
    pub fn is_cut_off(&self) -> bool {
        self.store_outage().is_some_and(|outage| outage.began.elapsed() >= CUT_OFF_AFTER)
    }

    /// A commit or a probe of the spool failed. That is reported at once, since jobs are rejected.
    pub fn spool_failed(&self, error: &impl ToString) {
        self.spool.failed(error.to_string(), true, &self.ledger, Instant::now());
    }

    /// A commit or a probe of the spool succeeded.
    pub fn spool_succeeded(&self) {
        self.spool.succeeded();
    }

    /// What takes commits.
    pub fn spool_name(&self) -> &'static str {
        self.spool.name
    }

    /// The current outage of the spool.
    pub fn spool_outage(&self) -> Option<Outage> {
        self.spool.outage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(health: &Health, is_permanent: bool, now: Instant) -> Option<LogLine> {
        health.store.failed("connection refused".to_owned(), is_permanent, &health.ledger, now)
    }

    #[test]
    fn an_outage_is_logged_when_it_begins_and_once_a_minute_while_it_lasts() {
        let (health, began) = (Health::default(), Instant::now());
        let lines: Vec<_> = (0..150)
            .filter_map(|second| Some((second, failed(&health, false, began + Duration::from_secs(second))?)))
            .collect();
        assert_eq!(lines, [(3, LogLine::OutageBegan), (63, LogLine::OutageLasts), (123, LogLine::OutageLasts)]);
    }

    #[test]
    fn outages_in_quick_succession_share_one_line_a_minute() {
        let (health, began) = (Health::default(), Instant::now());
        let lines: Vec<_> = (0..120)
            .filter_map(|second| {
                let line = failed(&health, true, began + Duration::from_secs(second));
                health.store_succeeded();
                line.map(|line| (second, line))
            })
            .collect();
        assert_eq!(lines, [(0, LogLine::OutageBegan), (60, LogLine::OutageBegan)]);
    }
}
