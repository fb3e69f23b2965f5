//! The result of the proof of a worker environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::daemon::Told;
use super::queue::Counts;
use crate::ledger::Totals;
use crate::readback::Objects;
use crate::report::row;

/// The result of the proof of a worker environment.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct WorkerTierVerdict {
    pub name: &'static str,
    pub run: String,
    pub seed: u64,
    /// From the first message to the check of the store.
    pub seconds: f64,
    /// Messages sent in a second.
    pub rate: f64,
    pub kills: u32,
    pub messages: Counts,
    /// Messages by how often they were received.
    pub receives: BTreeMap<u32, u64>,
    pub told: Told,
    /// Messages with payloads that are stored more than once. Each was received more than once, and all of its lines have its id.
    pub duplicates: u64,
    /// What went wrong beside the ledger.
    pub broken: Vec<String>,
    pub objects: Objects,
    /// Accepted are the payloads of deleted messages.
    pub ledger: Totals,
    /// Where the spool and the logs were left.
    pub kept: Option<PathBuf>,
}

impl WorkerTierVerdict {
    /// Whether a promise was broken.
    pub fn failed(&self) -> bool {
        let Totals { lost, corrupt, foreign, .. } = self.ledger;
        let Counts { deleted, dead_letters, .. } = self.messages;
        lost + corrupt + foreign + dead_letters + self.messages.left() > 0 || !self.broken.is_empty() || deleted == 0
    }
}

impl fmt::Display for WorkerTierVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, run, seed, rate, kills, seconds, messages, told, ledger, .. } = self;
        writeln!(f, "\n{name}: run {run}, seed {seed}, {rate} messages/s, {kills} kills in {seconds:.1} s\n")?;
        let Counts { sent, deleted, dead_letters, .. } = *messages;
        row(
            f,
            "messages",
            &format!("{sent} sent, {deleted} deleted, {dead_letters} dead letters, {} left", messages.left()),
        )?;
        let receives: Vec<_> = self.receives.iter().map(|(times, count)| format!("{times}: {count}")).collect();
        row(f, "messages by receives", &receives.join(", "))?;
        let statuses: Vec<_> = told.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        row(f, "requests by status", &format!("{}, unanswered: {}", statuses.join(", "), told.unanswered))?;
        row(f, "longest response", &format!("{:.1} s", told.longest))?;
        row(f, "objects", &self.objects.to_string())?;
        row(f, "payloads lost", &format!("{} of {}, {} corrupt", ledger.lost, ledger.accepted, ledger.corrupt))?;
        row(f, "messages stored twice", &format!("{}, all under their own request id", self.duplicates))?;
        writeln!(f, "\n{}", if self.failed() { "FAILED" } else { "holds" })?;
        for wrong in &self.broken {
            writeln!(f, "  {wrong}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "  spool, store and logs are in {}", kept.display())?;
        }
        Ok(())
    }
}
