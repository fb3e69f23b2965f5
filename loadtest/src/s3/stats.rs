//! The calls of the server, counted so that a test can wait for a number instead of for a time.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::units::show_counts;

/// The counts of one [`S3Server`](super::S3Server), since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Stats {
    /// PutObject calls whose head has arrived.
    pub puts: u64,
    /// PutObject calls that succeeded, whether or not their response was sent.
    pub stored: u64,
    pub in_flight: u64,
    pub in_flight_peak: u64,
    pub faults: BTreeMap<String, u64>,
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

    pub(super) fn fault(&self, name: &str) {
        self.0.send_modify(|stats| *stats.faults.entry(name.to_owned()).or_default() += 1);
    }

    /// Counts a PUT as under way until the guard is dropped, also because its client disconnects.
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

impl Stats {
    /// Adds the counts of a server that has stopped before.
    pub(crate) fn add(&mut self, other: &Self) {
        self.puts += other.puts;
        self.stored += other.stored;
        self.in_flight_peak = self.in_flight_peak.max(other.in_flight_peak);
        for (name, count) in &other.faults {
            *self.faults.entry(name.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { puts, stored, in_flight_peak, faults, .. } = self;
        write!(f, "PUTs {puts}, stored {stored}, at most {in_flight_peak} at once, faults {}", show_counts(faults))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|stats| stats.in_flight -= 1);
    }
}
