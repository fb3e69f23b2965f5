//! Proofs that acknowledged jobs survive what happens to servers, disks and stores.
//!
//! In a [`Proof`], an [`Event`] happens again and again under load: servers are started on one `SPOOL_DIR` and one store,
//! killed, stopped, replaced, or left without their store or their disk. At the end the last server has to drain the spool
//! and to exit with 0, and one ledger is made of everything that was sent.
//!
//! A proof fails if something accepted is lost, corrupt or stored twice; if anything at all is stored twice; if something
//! with a 4xx response is stored; if a segment, or `dead/`, is left in the spool; if a receipt does not lead to its object;
//! if a server does not start, exits by itself, or exits with another code than 0 when told to stop. Payloads without a
//! response or with a 5xx response may be stored or not.

mod environment;
mod events;
mod mirror;
mod phase;
mod receipts;
mod rollout;
mod spool;
mod sqsd;
mod store;
mod tmpfs;
mod upgrade;
mod verdict;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;
use tokio::sync::watch;

pub use self::environment::Observed;
use self::environment::{Environment, LoadState};
pub use self::mirror::{Copies, MirrorVerdict, Mirrored, Mirrors, OtherSide};
pub use self::phase::{ClientPhase, Phase, Tolerance};
pub use self::receipts::Jobs;
pub use self::rollout::{Ramp, RolloutVerdict};
pub use self::spool::SpoolContents;
pub use self::sqsd::{Counts as MessageCounts, DaemonSettings, Told, WorkerTier, WorkerTierVerdict};
pub use self::upgrade::{Upgrade, UpgradeVerdict};
pub use self::verdict::Verdict;
use crate::client::Target;
use crate::load::{self, Control, Plan, Receipts};
use crate::payload::Payloads;
use crate::readback::Reader;
use crate::s3::FaultPlan;
use crate::server::{Program, Server};

/// Settings of the server that the proof itself sets.
const RESERVED: [&str; 4] = ["SPOOL_DIR", "STORE_DIR", "S3_BUCKET", "LISTEN_ADDR"];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The server is killed at random times, and started again.
    Kill,
    /// The store is away for a time, in one way after the other.
    Outage,
    /// Every PUT takes long.
    SlowStore,
    /// The server is told to stop at random times, and started again.
    Stop,
    /// The store is away until the spool is full, and comes back; in every other round the server is killed and started
    /// again in between.
    DiskFull,
    /// A second server replaces the first on the same spool: while it serves, while it drains, as it is killed.
    Takeover,
}

impl Event {
    /// The name in the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The default number of rounds.
    pub fn rounds(self) -> u32 {
        match self {
            Self::Kill => 20,
            Self::Stop => 10,
            Self::Takeover => 6,
            Self::Outage => 3,
            Self::DiskFull => 2,
            Self::SlowStore => 1,
        }
    }
}

/// A proof.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Proof {
    pub event: Event,
    /// The seed of the random times: the same seed and rounds have the same times.
    pub seed: u64,
    pub rounds: u32,
    /// The range of a server's random life in a round.
    pub life: RangeInclusive<Duration>,
    /// The duration of an outage, or of a slow store.
    pub span: Duration,
    /// What to send. It has no end of its own, and its target is filled in.
    pub plan: Plan,
    pub program: Program,
    pub in_process_s3: bool,
    pub faults: FaultPlan,
    /// The bytes that [`Event::DiskFull`] leaves for the spool.
    pub disk_bytes: usize,
    /// Whether that is the size of a file system (a tmpfs, if one can be mounted) and not `SPOOL_MAX_BYTES` alone.
    pub real_disk: bool,
    pub receipts: usize,
    /// How long the spool may take to drain, or a full one to accept requests again.
    pub settle: Duration,
    pub exit_limit: Duration,
    /// Where to make the directory for the spool, the store and the logs; `None` is the system's for temporary files. It is
    /// left there if the proof fails.
    pub folder: Option<PathBuf>,
}

impl Proof {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(mut self, control: Control, say: impl Fn(&str)) -> anyhow::Result<Verdict> {
        for name in RESERVED {
            ensure!(
                self.program.env.iter().all(|(given, _)| given != name),
                "{name} is set by the proof: leave it out"
            );
        }
        self.plan.duration = None;
        self.plan.requests = None;
        let folder = match &self.folder {
            Some(parent) => TempDir::with_prefix_in("loadtest-", parent),
            None => TempDir::with_prefix("loadtest-"),
        }
        .context("making a directory")?;
        let receipts = Arc::new(Receipts::new(self.receipts));
        let control = Control { receipts: Some(Arc::clone(&receipts)), ..control };
        // Also for a proof without a verdict.
        say(&format!("{}: seed {}", self.event.name(), self.seed));
        let state = watch::Sender::new(LoadState::default());
        let mut environment =
            Environment::set_up(&self, folder.path(), control.clone(), state.subscribe(), &say).await?;
        // A program that does not start the first time is an error and not a finding.
        let first = environment.start().await?;

        let start = Instant::now();
        let load =
            load::run(self.plan.clone(), control.clone(), |progress| state.send_modify(|state| state.update(progress)));
        let events = async {
            let last = Box::pin(events::run(&mut environment, first)).await;
            control.end.cancel();
            last
        };
        let (done, last) = tokio::join!(Box::pin(load), events);
        let mut done = done?;
        let jobs = self.finish(&mut environment, last, receipts.take()).await;

        let spool = SpoolContents::of(&environment.spool()).context("reading the spool")?;
        done.ledger.failed_may_stay();
        let mut reader = Reader::new(environment.store()?, Payloads::new(self.plan.run, self.plan.payload_size));
        reader.read(&mut done.ledger).await?;
        let seconds = start.elapsed().as_secs_f64();
        let (observed, s3) = environment.tear_down().await;
        let mut verdict = Verdict::new(&self, observed, &done, jobs, spool);
        (verdict.seconds, verdict.objects, verdict.s3) = (seconds, reader.objects(), s3);
        if verdict.failed() {
            verdict.kept = Some(folder.keep());
        }
        Ok(verdict)
    }

    /// Lets the last server drain the spool, looks up the receipts, and stops it.
    async fn finish(
        &self,
        environment: &mut Environment<'_>,
        last: anyhow::Result<Server>,
        receipts: Vec<Vec<u8>>,
    ) -> Jobs {
        let finished = async {
            let mut server = match last {
                Ok(server) => server,
                // Another one may succeed.
                Err(wrong) => {
                    environment.broken(format!("{wrong:#}"));
                    environment.store_back().await?;
                    environment.start().await?
                }
            };
            environment.drain(&mut server).await?;
            let jobs = Jobs::look_up(&Target::from(server.addr()?), &receipts, &self.plan, self.settle).await;
            environment.stop(server).await?;
            anyhow::Ok(jobs)
        };
        match Box::pin(finished).await {
            Ok(jobs) => jobs,
            Err(wrong) => {
                environment.broken(format!("{wrong:#}"));
                Jobs::default()
            }
        }
    }
}
