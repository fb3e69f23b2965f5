//! What the server has been asked, counted so that a test can wait for a number instead of for a time.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// The counts of one [`S3Server`](super::S3Server), since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// PutObject calls whose head has arrived.
    pub puts: u64,
    /// PutObject calls that succeeded, whether or not their answer got out.
    pub stored: u64,
    /// PutObject calls under way now, hung ones included.
    pub in_flight: u64,
    /// The most PutObject calls that were ever under way at once.
    pub in_flight_peak: u64,
    /// Faults injected into calls of any sort, by [`Fault::name`](super::Fault::name).
    pub faults: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Counters(watch::Sender<Stats>);

impl Counters {
    pub(super) fn snapshot(&self) -> Stats {
        self.0.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Stats> {
        self.0.subscribe()
    }

    pub(super) fn stored(&self) {
        self.0.send_modify(|stats| stats.stored += 1);
    }

    pub(super) fn fault(&self, name: &'static str) {
        self.0.send_modify(|stats| *stats.faults.entry(name).or_default() += 1);
    }

    /// Counts a PUT as under way until the guard goes, which it also does when its client hangs up.
    pub(super) fn put(&self) -> InFlight<'_> {
        self.0.send_modify(|stats| {
            stats.puts += 1;
            stats.in_flight += 1;
            stats.in_flight_peak = stats.in_flight_peak.max(stats.in_flight);
        });
        InFlight(self)
    }
}

pub(super) struct InFlight<'a>(&'a Counters);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|stats| stats.in_flight -= 1);
    }
}
