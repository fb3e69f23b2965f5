//! The result of the proof of a ramp-up.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::Step;
use crate::ledger::Totals;
use crate::readback::Objects;
use crate::report::row;

/// The result of the proof of a ramp-up.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct RolloutVerdict {
    pub name: &'static str,
    pub run: String,
    pub seed: u64,
    pub kill_rounds: u32,
    /// From the first request to the check of the store, in seconds.
    pub seconds: f64,
    pub rate: String,
    /// Processes that were started.
    pub starts: u32,
    pub steps: Vec<Step>,
    /// What went wrong beside the ledger.
    pub broken: Vec<String>,
    pub objects: Objects,
    pub ledger: Totals,
    /// Where the spools and the logs were left.
    pub kept: Option<PathBuf>,
}

impl RolloutVerdict {
    /// Whether a promise was broken.
    pub fn failed(&self) -> bool {
        self.ledger.failed() || !self.broken.is_empty() || self.ledger.accepted == 0
    }
}

impl fmt::Display for RolloutVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, run, seed, rate, kill_rounds, seconds, starts, .. } = self;
        writeln!(f, "\n{name}: run {run}, seed {seed}, {rate}, {kill_rounds} kills in {seconds:.1} s")?;
        for step in &self.steps {
            write!(f, "\n{}", step.phase)?;
            let counts = step.counts;
            let tripped = if counts.is_tripped { ", stopped by the guard" } else { "" };
            let text =
                format!("{}, taken here: {}, unknown: {}{tripped}", counts.passed, counts.taken_here, counts.unknown);
            row(f, "forwarded", &text)?;
        }
        writeln!(f)?;
        row(f, "processes", &format!("{starts} started"))?;
        row(f, "objects", &self.objects.to_string())?;
        write!(f, "\npayloads\n{}", self.ledger)?;
        writeln!(f, "\n{}", if self.failed() { "FAILED" } else { "holds" })?;
        for wrong in &self.broken {
            writeln!(f, "  {wrong}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "  spools and logs are in {}", kept.display())?;
        }
        Ok(())
    }
}
