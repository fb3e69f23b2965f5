//! What a proof has shown, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::stage::Tracks;
use super::{Jobs, Proof, Remains};
use crate::ledger::Totals;
use crate::load::{Done, Quantiles};
use crate::readback::Objects;
use crate::report::{S3Report, quantiles, row};
use crate::units::show_size;

/// What a proof has shown.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The scene.
    pub name: &'static str,
    /// The id that its payloads bear.
    pub run: String,
    /// Of the random times at which it happened.
    pub seed: u64,
    /// How often it was to happen.
    pub rounds: u32,
    /// From the first request to the last look at the store, in seconds.
    pub seconds: f64,
    /// Requests a second, as they were due.
    pub rate: String,
    /// Requests a second that were answered or broken off, over the whole of the load.
    pub requests_per_second: f64,
    /// Latency of accepted requests, from when they were due, with the time that there was no server.
    pub accepted: Quantiles,
    /// Requests by the status of their answers.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Servers started, killed, and told to stop.
    pub servers: (u32, u32, u32),
    /// The longest that a server took until it listened, and to stop, in seconds.
    pub longest: (f64, f64),
    /// The most memory that any server had resident, in bytes.
    pub peak_memory: u64,
    /// From the load's end until the spool was drained, in seconds.
    pub drained_in: Option<f64>,
    /// What the scene has to tell beside.
    pub remarks: Vec<String>,
    /// What lies in the spool at the end.
    pub spool: Remains,
    /// Where the receipts led to.
    pub jobs: Jobs,
    /// The objects in the store.
    pub objects: Objects,
    /// What the S3 server in this process was asked, if there was one.
    pub s3: Option<S3Report>,
    /// What became of every payload.
    pub ledger: Totals,
    /// What went wrong, the ledger aside.
    pub broken: Vec<String>,
    /// Where spool, store and logs were left.
    pub kept: Option<PathBuf>,
}

/// What is known at the end.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) seconds: f64,
    pub(super) done: Done,
    pub(super) jobs: Jobs,
    pub(super) remains: Remains,
    pub(super) objects: Objects,
}

impl Verdict {
    pub(super) fn new(proof: &Proof, tracks: Tracks, s3: Option<S3Report>, shown: Shown) -> Self {
        let ledger = shown.done.ledger.totals();
        let mut broken = tracks.broken;
        broken.extend(shown.remains.wrong());
        broken.extend(shown.jobs.wrong.iter().cloned());
        if shown.jobs.wrong.is_empty() && shown.jobs.stored < shown.jobs.asked {
            broken.push("receipts led nowhere".to_owned());
        }
        if ledger.accepted == 0 {
            broken.push("nothing was accepted, so nothing was proved".to_owned());
        }
        let tally = &shown.done.tally;
        Self {
            name: proof.scene.name(),
            run: format!("{:08x}", proof.plan.run),
            seed: proof.seed,
            rounds: proof.rounds,
            seconds: shown.seconds,
            rate: proof.plan.rate.to_string(),
            requests_per_second: (tally.answered() + tally.unanswered) as f64
                / shown.done.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            accepted: tally.accepted.summary(),
            statuses: tally.statuses.clone(),
            unanswered: tally.unanswered,
            servers: (tracks.starts, tracks.kills, tracks.stops),
            longest: (tracks.start_longest.as_secs_f64(), tracks.stop_longest.as_secs_f64()),
            peak_memory: tracks.peak_memory,
            drained_in: tracks.drained_in.as_ref().map(Duration::as_secs_f64),
            remarks: tracks.remarks,
            spool: shown.remains,
            jobs: shown.jobs,
            objects: shown.objects,
            s3,
            ledger,
            broken,
            kept: None,
        }
    }

    /// Whether a promise was broken.
    pub fn failed(&self) -> bool {
        self.ledger.failed() || !self.broken.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{}: run {}, seed {}, {}, {} rounds in {:.1} s\n",
            self.name, self.run, self.seed, self.rate, self.rounds, self.seconds
        )?;
        let statuses: Vec<_> = self.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        row(f, "requests by status", &format!("{}, unanswered: {}", statuses.join(", "), self.unanswered))?;
        row(f, "requests sent", &format!("{:.0}/s", self.requests_per_second))?;
        row(f, "latency accepted", &quantiles(&self.accepted))?;
        let (starts, kills, stops) = self.servers;
        row(f, "servers", &format!("{starts} started, {kills} killed, {stops} stopped"))?;
        row(f, "longest start, stop", &format!("{:.2} s, {:.2} s", self.longest.0, self.longest.1))?;
        row(f, "peak memory", &show_size(self.peak_memory))?;
        let drained = self.drained_in.map_or("never".to_owned(), |seconds| format!("in {seconds:.1} s"));
        row(f, "spool drained", &drained)?;
        if let Some(s3) = &self.s3 {
            let faults: Vec<_> = s3.faults.iter().map(|(name, count)| format!(", {name}: {count}")).collect();
            row(f, "PUTs", &format!("{}, {} stored{}", s3.puts, s3.stored, faults.concat()))?;
        }
        row(f, "objects", &self.objects.to_string())?;
        row(f, "receipts", &format!("{} of {} lead to their objects", self.jobs.stored, self.jobs.asked))?;
        for remark in &self.remarks {
            row(f, "", remark)?;
        }
        write!(f, "\npayloads\n{}", self.ledger)?;
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
