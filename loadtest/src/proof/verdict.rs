//! The result of a proof, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::environment::Observed;
use super::{Event, Jobs, Proof, SpoolContents};
use crate::ledger::Totals;
use crate::load::{Done, Quantiles};
use crate::readback::Objects;
use crate::report::{quantiles, row};
use crate::s3::Stats;
use crate::units::show_size;

/// The result of a proof.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Verdict {
    /// What happened.
    #[serde(rename = "name")]
    pub event: Event,
    pub run: String,
    pub seed: u64,
    pub rounds: u32,
    /// From the first request to the check of the store, in seconds.
    pub seconds: f64,
    pub rate: String,
    pub requests_per_second: f64,
    /// Latency of accepted requests, from when they were due, including the time without a server.
    pub accepted: Quantiles,
    pub statuses: BTreeMap<u16, u64>,
    pub unanswered: u64,
    pub observed: Observed,
    /// The spool at the end.
    pub spool: SpoolContents,
    pub jobs: Jobs,
    pub objects: Objects,
    /// The calls of the S3 server in this process, if there was one.
    pub s3: Option<Stats>,
    pub ledger: Totals,
    /// Where spool, store and logs were left.
    pub kept: Option<PathBuf>,
}

impl Verdict {
    /// Without time, objects and calls of S3, which are filled in.
    pub(super) fn new(proof: &Proof, mut observed: Observed, done: &Done, jobs: Jobs, spool: SpoolContents) -> Self {
        let (ledger, tally) = (done.ledger.totals(), &done.tally);
        let broken = &mut observed.broken;
        broken.extend(spool.wrong());
        broken.extend(jobs.wrong.iter().cloned());
        if jobs.wrong.is_empty() && jobs.stored < jobs.asked {
            broken.push("receipts do not lead to objects".to_owned());
        }
        if ledger.accepted == 0 {
            broken.push("nothing was accepted, so nothing was proved".to_owned());
        }
        Self {
            event: proof.event,
            run: format!("{:08x}", proof.plan.run),
            seed: proof.seed,
            rounds: proof.rounds,
            seconds: 0.0,
            rate: proof.plan.rate.to_string(),
            requests_per_second: (tally.answered() + tally.unanswered) as f64
                / done.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            accepted: tally.accepted.summary(),
            statuses: tally.statuses.clone(),
            unanswered: tally.unanswered,
            observed,
            spool,
            jobs,
            objects: Objects::default(),
            s3: None,
            ledger,
            kept: None,
        }
    }

    /// Whether a promise was broken.
    pub fn failed(&self) -> bool {
        self.ledger.failed() || !self.observed.broken.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{}: run {}, seed {}, {}, {} rounds in {:.1} s\n",
            self.event.name(),
            self.run,
            self.seed,
            self.rate,
            self.rounds,
            self.seconds
        )?;
        let statuses: Vec<_> = self.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        row(f, "requests by status", &format!("{}, unanswered: {}", statuses.join(", "), self.unanswered))?;
        row(f, "requests sent", &format!("{:.0}/s", self.requests_per_second))?;
        row(f, "latency accepted", &quantiles(&self.accepted))?;
        let Observed { starts, kills, stops, longest_start, longest_stop, .. } = &self.observed;
        row(f, "servers", &format!("{starts} started, {kills} killed, {stops} stopped"))?;
        row(f, "longest start, stop", &format!("{longest_start:.2} s, {longest_stop:.2} s"))?;
        row(f, "peak memory", &show_size(self.observed.peak_memory))?;
        let drained = self.observed.drained_in.map_or("never".to_owned(), |seconds| format!("in {seconds:.1} s"));
        row(f, "spool drained", &drained)?;
        if let Some(s3) = &self.s3 {
            let faults: Vec<_> = s3.faults.iter().map(|(name, count)| format!(", {name}: {count}")).collect();
            row(f, "PUTs", &format!("{}, {} stored{}", s3.puts, s3.stored, faults.concat()))?;
        }
        row(f, "objects", &self.objects.to_string())?;
        row(f, "receipts", &format!("{} of {} lead to their objects", self.jobs.stored, self.jobs.asked))?;
        for remark in &self.observed.remarks {
            row(f, "", remark)?;
        }
        write!(f, "\npayloads\n{}", self.ledger)?;
        writeln!(f, "\n{}", if self.failed() { "FAILED" } else { "holds" })?;
        for wrong in &self.observed.broken {
            writeln!(f, "  {wrong}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "  spool, store and logs are in {}", kept.display())?;
        }
        Ok(())
    }
}
