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
/// The interval between log lines about outages of one component. Outages in quick succession share a line, so that a
/// component that fails and recovers again and again does not fill the log.
const OUTAGE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The state that `/health` and `/ready` are answered from.
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
    fn new() -> Self {
        Self { outage: Mutex::default(), log: LogThrottle::new(OUTAGE_LOG_INTERVAL) }
    }

    /// Records a failed attempt. Returns what to log about it, if anything, and the outage.
    fn failed(&self, message: String, is_permanent: bool, now: Instant) -> (Option<LogLine>, Outage) {
        let mut current = self.outage.lock();
        let mut outage = Outage::after(current.take(), message, now);
        outage.is_reported |= is_permanent || now.saturating_duration_since(outage.began) >= REPORTED_AFTER;
        let mut line = None;
        if outage.is_reported && self.log.permit_at(now).is_some() {
            line = Some(if outage.is_logged { LogLine::OutageLasts } else { LogLine::OutageBegan });
            outage.is_logged = true;
        }
        *current = Some(outage.clone());
        (line, outage)
    }

    fn outage(&self) -> Option<Outage> {
        self.outage.lock().as_ref().filter(|outage| outage.is_reported || outage.has_lasted()).cloned()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Health {
    /// The state without outages.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        let (store, spool) = (Component::new(), Component::new());
        Self { store, store_recovered: Notify::new(), spool, segments: FailingSegments::default(), ledger }
    }

    /// The store rejected an object or could not be reached.
    pub fn store_failed(&self, error: &StoreError) {
        let is_permanent = error.class == ErrorClass::Permanent;
        let (line, outage) = self.store.failed(error.message.clone(), is_permanent, Instant::now());
        let (attempts, waiting) = (outage.failed_attempts, self.ledger.balance().waiting.jobs);
        match line {
            None => {}
            Some(LogLine::OutageBegan) => tracing::error!(
                %error,
                attempts,
                waiting,
                "the store is failing; accepted jobs are kept and uploads are retried"
            ),
            Some(LogLine::OutageLasts) => {
                tracing::warn!(%error, attempts, waiting, lasts = ?outage.began.elapsed(), "the store is still failing");
            }
        }
    }

    /// The store took an object or could be reached.
    pub fn store_succeeded(&self) {
        let Some(outage) = self.store.outage.lock().take() else { return };
        if outage.is_logged {
            let (attempts, lasted) = (outage.failed_attempts, outage.began.elapsed());
            tracing::info!(attempts, ?lasted, "the store has recovered");
        }
        if outage.is_reported {
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

    /// A commit or a probe of the spool failed.
    pub fn spool_failed(&self, error: &impl ToString) {
        let error = error.to_string();
        // The jobs of the failed commit were rejected, so it is reported at once.
        let (line, outage) = self.spool.failed(error.clone(), true, Instant::now());
        let attempts = outage.failed_attempts;
        match line {
            None => {}
            Some(LogLine::OutageBegan) => {
                tracing::error!(error, "the spool is failing; batches are rejected until it recovers");
            }
            Some(LogLine::OutageLasts) => {
                tracing::warn!(error, attempts, lasts = ?outage.began.elapsed(), "the spool is still failing");
            }
        }
    }

    /// A commit or a probe of the spool succeeded.
    pub fn spool_succeeded(&self) {
        let outage = self.spool.outage.lock().take();
        if let Some(Outage { began, failed_attempts, .. }) = outage.filter(|outage| outage.is_logged) {
            tracing::info!(attempts = failed_attempts, lasted = ?began.elapsed(), "the spool has recovered");
        }
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
        health.store.failed("connection refused".to_owned(), is_permanent, now).0
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
