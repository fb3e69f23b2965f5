//! The result of the proof of live upgrades.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::Observed;
use crate::ledger::Totals;
use crate::proof::phase::Phase;
use crate::readback::Objects;
use crate::report::row;

/// The result of the proof of live upgrades.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct UpgradeVerdict {
    pub name: &'static str,
    pub run: String,
    pub seed: u64,
    pub rounds: u32,
    pub kill_rounds: u32,
    /// From the first request to the check of the store, in seconds.
    pub seconds: f64,
    pub rate: String,
    pub phases: Vec<Phase>,
    pub observed: Observed,
    pub objects: Objects,
    pub ledger: Totals,
    /// Where the spool and the logs were left.
    pub kept: Option<PathBuf>,
}

impl UpgradeVerdict {
    /// Whether a promise was broken.
    pub fn failed(&self) -> bool {
        self.ledger.failed() || !self.observed.broken.is_empty() || self.ledger.accepted == 0
    }
}

impl fmt::Display for UpgradeVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, seed, rate, rounds, kill_rounds, seconds, observed, .. } = self;
        writeln!(
            f,
            "\n{}: run {run}, seed {seed}, {rate}, {rounds} rounds and {kill_rounds} kills in {seconds:.1} s",
            self.name
        )?;
        for phase in &self.phases {
            write!(f, "\n{phase}")?;
        }
        writeln!(f)?;
        let Observed { starts, upgrades, failed_upgrades, kills, killed_last, fresh_starts, .. } = observed;
        row(
            f,
            "processes",
            &format!(
                "{starts} started, {fresh_starts} of them again; {kills} killed, {killed_last} after they took over"
            ),
        )?;
        row(
            f,
            "handovers",
            &format!("{upgrades} done, {failed_upgrades} by processes that exited before they were ready"),
        )?;
        row(
            f,
            "longest handover, exit",
            &format!("{:.2} s, {:.2} s", observed.longest_upgrade, observed.longest_exit),
        )?;
        row(f, "objects", &self.objects.to_string())?;
        for remark in &observed.remarks {
            row(f, "", remark)?;
        }
        write!(f, "\npayloads\n{}", self.ledger)?;
        writeln!(f, "\n{}", if self.failed() { "FAILED" } else { "holds" })?;
        for wrong in &observed.broken {
            writeln!(f, "  {wrong}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "  spool and logs are in {}", kept.display())?;
        }
        Ok(())
    }
}
