//! What stands in the way of taking work or storing it, as the workers and the shutdown see it and `/health` and `/ready`
//! show it.

mod segments;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

pub use segments::{FailingSegments, Side};

use crate::log_throttle::LogThrottle;
use crate::metrics::Ledger;
use crate::store::{ErrorClass, StoreError};

/// A store that fails is in trouble when it has taken nothing for this long: one failed call is no news. What will not pass
/// by itself is trouble at once.
const TROUBLE_AFTER: Duration = Duration::from_secs(3);
/// How often an outage is logged while it lasts. Outages that follow each other faster share a line, so that what comes and
/// goes does not fill the log.
const OUTAGE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The state that the probes are answered from.
#[derive(Debug)]
pub struct Health {
    store_recovered: Notify,
    store: Mutex<Option<Outage>>,
    store_log: LogThrottle,
    spool: Mutex<Option<Outage>>,
    spool_log: LogThrottle,
    /// Segments that fail while others get through.
    pub segments: FailingSegments,
    /// How many jobs wait, for the log.
    ledger: Arc<Ledger>,
}

/// Something does not do its work.
#[derive(Debug, Clone)]
pub struct Outage {
    /// Since when.
    pub since: SystemTime,
    /// What it said the last time.
    pub message: String,
    began: Instant,
    /// Attempts that failed since then.
    attempts: u64,
    /// Whether the probes show it.
    is_declared: bool,
    /// Whether a line was logged for it.
    is_logged: bool,
}

/// The line that a failure is worth.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// The first of an outage.
    Began,
    /// The outage lasts.
    Lasts,
}

impl Outage {
    fn again(before: Option<Self>, message: String, now: Instant) -> Self {
        match before {
            Some(before) => Self { message, attempts: before.attempts + 1, ..before },
            None => Self {
                since: SystemTime::now(),
                message,
                began: now,
                attempts: 1,
                is_declared: false,
                is_logged: false,
            },
        }
    }

    /// What to log now: the beginning once, and then that it lasts, both no more often than `log` permits.
    fn line(&mut self, log: &LogThrottle, now: Instant) -> Option<Line> {
        log.permit_at(now)?;
        let line = if self.is_logged { Line::Lasts } else { Line::Began };
        self.is_logged = true;
        Some(line)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Health {
    /// All is well. `ledger` says how many jobs wait.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            store_recovered: Notify::new(),
            store: Mutex::default(),
            store_log: LogThrottle::new(OUTAGE_LOG_INTERVAL),
            spool: Mutex::default(),
            spool_log: LogThrottle::new(OUTAGE_LOG_INTERVAL),
            segments: FailingSegments::default(),
            ledger,
        }
    }

    /// The store refused an object, or could not be asked.
    pub fn store_failed(&self, error: &StoreError) {
        let (line, attempts, began) = self.count_store_failure(error, Instant::now());
        let waiting = self.ledger.balance().waiting.jobs;
        match line {
            None => {}
            Some(Line::Began) => tracing::error!(
                %error,
                attempts,
                waiting,
                "the store takes no objects; accepted jobs are kept and uploads are retried"
            ),
            Some(Line::Lasts) => tracing::warn!(
                %error,
                attempts,
                waiting,
                lasts = ?began.elapsed(),
                "the store still takes no objects"
            ),
        }
    }

    fn count_store_failure(&self, error: &StoreError, now: Instant) -> (Option<Line>, u64, Instant) {
        let mut store = lock(&self.store);
        let mut trouble = Outage::again(store.take(), error.message.clone(), now);
        let lasts = now.saturating_duration_since(trouble.began);
        trouble.is_declared |= error.class == ErrorClass::Permanent || lasts >= TROUBLE_AFTER;
        let line = if trouble.is_declared { trouble.line(&self.store_log, now) } else { None };
        let seen = (line, trouble.attempts, trouble.began);
        *store = Some(trouble);
        seen
    }

    /// The store took an object, or is there again.
    pub fn store_succeeded(&self) {
        let Some(trouble) = lock(&self.store).take() else { return };
        if trouble.is_logged {
            let (attempts, lasted) = (trouble.attempts, trouble.began.elapsed());
            tracing::info!(attempts, ?lasted, "the store takes objects again");
        }
        if trouble.is_declared {
            self.store_recovered.notify_waiters();
        }
    }

    /// Waits until the store has taken an object after it had failed.
    pub async fn store_recovered(&self) {
        self.store_recovered.notified().await;
    }

    /// What ails the store, if anything does.
    pub fn store_outage(&self) -> Option<Outage> {
        let store = lock(&self.store);
        store.as_ref().filter(|trouble| trouble.is_declared || trouble.began.elapsed() >= TROUBLE_AFTER).cloned()
    }

    /// The spool did not take a commit, or could not give a segment back.
    pub fn spool_failed(&self, error: &impl ToString) {
        let (error, now) = (error.to_string(), Instant::now());
        let mut spool = lock(&self.spool);
        let mut trouble = Outage::again(spool.take(), error.clone(), now);
        let (line, attempts) = (trouble.line(&self.spool_log, now), trouble.attempts);
        let lasts = now.saturating_duration_since(trouble.began);
        *spool = Some(trouble);
        drop(spool);
        match line {
            None => {}
            Some(Line::Began) => {
                tracing::error!(error, "the spool takes no commits; batches are refused until it does")
            }
            Some(Line::Lasts) => tracing::warn!(error, attempts, ?lasts, "the spool still takes no commits"),
        }
    }

    /// The spool took a commit.
    pub fn spool_succeeded(&self) {
        let trouble = lock(&self.spool).take();
        if let Some(Outage { began, attempts, .. }) = trouble.filter(|trouble| trouble.is_logged) {
            tracing::info!(attempts, lasted = ?began.elapsed(), "the spool takes commits again");
        }
    }

    /// What ails the spool, if anything does.
    pub fn spool_outage(&self) -> Option<Outage> {
        lock(&self.spool).clone()
    }
}

fn lock(trouble: &Mutex<Option<Outage>>) -> MutexGuard<'_, Option<Outage>> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(health: &Health, class: ErrorClass, now: Instant) -> Option<Line> {
        let error = StoreError { class, message: "connection refused".to_owned() };
        health.count_store_failure(&error, now).0
    }

    #[test]
    fn an_outage_is_logged_when_it_begins_and_once_a_minute_while_it_lasts() {
        let (health, began) = (Health::default(), Instant::now());
        let lines: Vec<_> = (0..150)
            .filter_map(|second| {
                let line = failed(&health, ErrorClass::Transient, began + Duration::from_secs(second))?;
                Some((second, line))
            })
            .collect();
        assert_eq!(lines, [(3, Line::Began), (63, Line::Lasts), (123, Line::Lasts)]);
    }

    #[test]
    fn outages_that_follow_each_other_share_a_line_a_minute() {
        let (health, began) = (Health::default(), Instant::now());
        let lines: Vec<_> = (0..120)
            .filter_map(|second| {
                let line = failed(&health, ErrorClass::Permanent, began + Duration::from_secs(second));
                health.store_succeeded();
                line.map(|line| (second, line))
            })
            .collect();
        assert_eq!(lines, [(0, Line::Began), (60, Line::Began)]);
    }
}
