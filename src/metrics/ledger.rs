//! The ledger: accepted = stored + waiting + dead, in jobs and in payloads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};

/// Counts what was accepted and what became of it.
#[derive(Debug, Default)]
pub struct Ledger {
    accepted: Tally,
    stored: Tally,
    dead: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    jobs: AtomicU64,
    payloads: AtomicU64,
}

impl Tally {
    fn add(&self, jobs: u64, payloads: u64) {
        self.jobs.fetch_add(jobs, Ordering::AcqRel);
        self.payloads.fetch_add(payloads, Ordering::AcqRel);
    }

    fn read(&self) -> Count {
        Count { jobs: self.jobs.load(Ordering::Acquire), payloads: self.payloads.load(Ordering::Acquire) }
    }
}

/// So many jobs, and the payloads in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Accepted requests.
    pub jobs: u64,
    /// Payloads.
    pub payloads: u64,
}

/// The ledger at one moment; it balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// All that was answered 2xx, by this process or by a dead one that it took over from.
    pub accepted: Count,
    /// What the store has said yes to.
    pub stored: Count,
    /// What was accepted and then damaged on disk.
    pub dead: Count,
    /// What is in the queue or in a segment.
    pub waiting: Count,
}

impl Ledger {
    /// So many jobs and payloads are acknowledged, or about to be; or were by a dead process, and are taken over.
    pub fn accepted(&self, jobs: u64, payloads: u64) {
        self.accepted.add(jobs, payloads);
    }

    /// So many jobs and payloads were damaged on disk.
    pub fn dead(&self, jobs: u64, payloads: u64) {
        self.dead.add(jobs, payloads);
    }

    /// An object of so many jobs and payloads is in the store.
    pub fn stored(&self, jobs: u64, payloads: u64) {
        self.stored.add(jobs, payloads);
    }

    /// Reads what was stored before what was accepted: a job that moves on in between shows as waiting, and nothing is
    /// ever stored that was not accepted.
    pub fn balance(&self) -> Balance {
        let (stored, dead) = (self.stored.read(), self.dead.read());
        let accepted = self.accepted.read();
        let waiting = Count {
            jobs: accepted.jobs.saturating_sub(stored.jobs + dead.jobs),
            payloads: accepted.payloads.saturating_sub(stored.payloads + dead.payloads),
        };
        Balance { accepted, stored, dead, waiting }
    }
}

/// Shows the ledger to Prometheus, every line of it from one [`Balance`].
pub(super) struct LedgerCollector {
    ledger: Arc<Ledger>,
    accepted: [IntCounter; 2],
    stored: [IntCounter; 2],
    dead: [IntCounter; 2],
    waiting: [IntGauge; 2],
    /// Two scrapes at once would count twice.
    scrape: Mutex<()>,
}

impl LedgerCollector {
    pub(super) fn new(ledger: Arc<Ledger>) -> prometheus::Result<Self> {
        let counters = |what: &str, help: &str| -> prometheus::Result<[IntCounter; 2]> {
            Ok([
                IntCounter::new(format!("millpond_jobs_{what}_total"), format!("Jobs {help}"))?,
                IntCounter::new(format!("millpond_payloads_{what}_total"), format!("Payloads {help}"))?,
            ])
        };
        Ok(Self {
            ledger,
            accepted: counters("accepted", "accepted, or adopted from an exited process")?,
            stored: counters("stored", "whose object is in the store")?,
            dead: counters("dead", "accepted and then damaged on disk")?,
            waiting: [
                IntGauge::new("millpond_jobs_waiting", "Jobs accepted and not yet stored")?,
                IntGauge::new("millpond_payloads_waiting", "Payloads accepted and not yet stored")?,
            ],
            scrape: Mutex::default(),
        })
    }
}

impl Collector for LedgerCollector {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.accepted.iter().chain(&self.stored).chain(&self.dead).flat_map(Collector::desc);
        counters.chain(self.waiting.iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        let balance = self.ledger.balance();
        for (counters, count) in
            [(&self.accepted, balance.accepted), (&self.stored, balance.stored), (&self.dead, balance.dead)]
        {
            for (counter, now) in counters.iter().zip([count.jobs, count.payloads]) {
                counter.reset();
                counter.inc_by(now);
            }
        }
        for (gauge, now) in self.waiting.iter().zip([balance.waiting.jobs, balance.waiting.payloads]) {
            gauge.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
        let counters = self.accepted.iter().chain(&self.stored).chain(&self.dead).flat_map(Collector::collect);
        counters.chain(self.waiting.iter().flat_map(Collector::collect)).collect()
    }
}
