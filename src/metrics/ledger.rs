//! The ledger: accepted = stored + waiting + dead, in jobs and in payloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};

/// Counts accepted jobs and payloads, and their results.
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

/// A number of jobs, and the number of payloads in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Jobs.
    pub jobs: u64,
    /// Payloads.
    pub payloads: u64,
}

/// The ledger at one moment; it balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Accepted by this process, or adopted from an exited process.
    pub accepted: Count,
    /// Stored as part of an object.
    pub stored: Count,
    /// Damaged on disk before it was stored.
    pub dead: Count,
    /// In the queue or in a segment.
    pub waiting: Count,
}

impl Ledger {
    /// Counts jobs and payloads that are acknowledged or about to be, or that were adopted.
    pub fn accepted(&self, jobs: u64, payloads: u64) {
        self.accepted.add(jobs, payloads);
    }

    /// Counts jobs and payloads that were damaged on disk.
    pub fn dead(&self, jobs: u64, payloads: u64) {
        self.dead.add(jobs, payloads);
    }

    /// Counts the jobs and payloads of a stored object.
    pub fn stored(&self, jobs: u64, payloads: u64) {
        self.stored.add(jobs, payloads);
    }

    /// Reads the ledger. `accepted` is read last, so a job that is stored meanwhile counts as waiting, and `stored` never
    /// exceeds `accepted`.
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

/// Exports the ledger to Prometheus. All metrics of a scrape come from one [`Balance`].
pub(super) struct LedgerCollector {
    ledger: Arc<Ledger>,
    accepted: [IntCounter; 2],
    stored: [IntCounter; 2],
    dead: [IntCounter; 2],
    waiting: [IntGauge; 2],
    /// Serialises scrapes: a counter is reset and then incremented.
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
        let _scrape = self.scrape.lock();
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
