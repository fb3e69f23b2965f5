//! The result of any proof, as a table and as JSON.

use std::fmt::{self, Display};
use std::path::PathBuf;

use serde::Serialize;

use super::Observed;
use crate::ledger::Totals;
use crate::readback::Objects;
use crate::report::row;
use crate::s3::Stats;

/// The result of a proof.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Verdict<D> {
    pub name: String,
    pub run: String,
    pub seed: u64,
    pub rounds: u32,
    /// From the setup to the check of the store, in seconds.
    pub seconds: f64,
    pub rate: String,
    /// What this kind of proof has beside the others.
    #[serde(flatten)]
    pub details: D,
    pub observed: Observed,
    pub objects: Objects,
    /// The calls of the S3 server in this process, if there was one.
    pub s3: Option<Stats>,
    pub ledger: Totals,
    /// Where spools, store and logs were left.
    pub kept: Option<PathBuf>,
}

impl<D> Verdict<D> {
    /// Whether a promise was broken.
    pub fn failed(&self) -> bool {
        self.ledger.failed() || !self.observed.broken.is_empty()
    }
}

impl<D: Display> Display for Verdict<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, run, seed, rate, rounds, seconds, .. } = self;
        writeln!(f, "\n{name}: run {run}, seed {seed}, {rate}, {rounds} rounds in {seconds:.1} s")?;
        write!(f, "{}{}", self.details, self.observed)?;
        if let Some(s3) = &self.s3 {
            let faults: Vec<_> = s3.faults.iter().map(|(name, count)| format!(", {name}: {count}")).collect();
            row(f, "PUTs", &format!("{}, {} stored{}", s3.puts, s3.stored, faults.concat()))?;
        }
        row(f, "objects", &self.objects.to_string())?;
        write!(f, "\npayloads\n{}", self.ledger)?;
        writeln!(f, "\n{}", if self.failed() { "FAILED" } else { "holds" })?;
        for wrong in &self.observed.broken {
            writeln!(f, "  {wrong}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "  spools, store and logs are in {}", kept.display())?;
        }
        Ok(())
    }
}
