//! Whether what was acknowledged outlives what happens to servers, disks and stores.
//!
//! A [`Proof`] plays a [`Scene`]: servers are started on one `SPOOL_DIR` and one store, killed, stopped, replaced, or
//! left without their store or their disk, while a load goes on over all of it. At the end the last server has to drain
//! the spool and to end with 0, and one ledger is made over everything that was sent.
//!
//! What fails a proof: something accepted that is lost, corrupt or stored twice; anything at all stored twice; something
//! stored that a 4xx refused; a segment, or `dead/`, left in the spool; a receipt that does not lead to its object; a
//! server that does not start, ends by itself, or ends with another code than 0 when told to stop. What went unanswered
//! or was answered with 5xx may be in the store or not.

mod depot;
mod jobs;
mod scenes;
mod spool;
mod stage;
mod tmpfs;
mod verdict;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::load::{self, Control, Plan, Receipts};
use crate::payload::Payloads;
use crate::readback::Reader;
use crate::s3::FaultPlan;
use crate::server::{Program, Server};

pub use self::jobs::Jobs;
pub use self::spool::Remains;
pub use self::verdict::Verdict;

use self::stage::{Pulse, Stage};
use self::verdict::Shown;

/// What is said to a server's environment by the proof alone.
const OURS: [&str; 4] = ["SPOOL_DIR", "STORE_DIR", "S3_BUCKET", "LISTEN_ADDR"];

/// What happens. Its name is as the command line has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// The server is killed at random moments, and started again.
    Kill,
    /// The store is away for a time, in one way after the other.
    Outage,
    /// Every PUT takes long.
    SlowStore,
    /// The server is told to stop at random moments, and started again.
    Stop,
    /// The store is away until the spool is full, and comes back; in every other round the server is killed and started
    /// again in between.
    DiskFull,
    /// A second server takes over from the first on the same spool: while it serves, while it drains, as it is killed.
    Takeover,
}

impl Scene {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Kill, Self::Outage, Self::SlowStore, Self::Stop, Self::DiskFull, Self::Takeover];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Outage => "outage",
            Self::SlowStore => "slow-store",
            Self::Stop => "stop",
            Self::DiskFull => "disk-full",
            Self::Takeover => "takeover",
        }
    }

    /// The scene of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scene| scene.name() == name)
    }

    /// How often it happens unless that is said.
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

/// A proof to be carried out.
#[derive(Debug, Clone)]
pub struct Proof {
    /// What happens.
    pub scene: Scene,
    /// Of the random times at which it happens: the same seed and rounds have the same times.
    pub seed: u64,
    /// How often.
    pub rounds: u32,
    /// How long a server lives in a round: a random time in this range.
    pub life: RangeInclusive<Duration>,
    /// How long what lasts does: an outage, a slow store.
    pub span: Duration,
    /// What to send. It has no end of its own, and its target is filled in.
    pub plan: Plan,
    /// The server. Its environment goes before the scene's.
    pub program: Program,
    /// Whether objects go to an S3 server in this process instead of a folder.
    pub in_process_s3: bool,
    /// What the S3 server does wrong, outages aside.
    pub faults: FaultPlan,
    /// How many bytes [`Scene::DiskFull`] leaves for the spool.
    pub disk_bytes: usize,
    /// Whether that is the size of a file system (a tmpfs, if one can be mounted) and not `SPOOL_MAX_BYTES` alone.
    pub real_disk: bool,
    /// How many receipts to follow up.
    pub receipts: usize,
    /// How long the spool may take to drain, or a full one to take work again.
    pub settle: Duration,
    /// How long a server may take to stop.
    pub exit_limit: Duration,
    /// Where to make the folder for the spool, the store and the logs; `None` is the system's for temporary files. It is
    /// left there if the proof fails.
    pub folder: Option<PathBuf>,
}

impl Proof {
    /// Carries it out, telling `say` what happens.
    ///
    /// # Errors
    ///
    /// It could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(mut self, control: Control, say: impl Fn(&str)) -> anyhow::Result<Verdict> {
        for name in OURS {
            ensure!(self.program.env.iter().all(|(given, _)| given != name), "{name} is for the scene to say");
        }
        self.plan.duration = None;
        self.plan.requests = None;
        let folder = match &self.folder {
            Some(parent) => TempDir::with_prefix_in("loadtest-", parent),
            None => TempDir::with_prefix("loadtest-"),
        }
        .context("making a folder")?;
        let receipts = Arc::new(Receipts::new(self.receipts));
        let control = Control { receipts: Some(Arc::clone(&receipts)), ..control };
        // Also for a proof that does not come to its verdict.
        say(&format!("{}: seed {}", self.scene.name(), self.seed));
        let beat = watch::Sender::new(Pulse::default());
        let mut stage = Stage::set(&self, folder.path(), control.clone(), beat.subscribe(), &say).await?;
        // A program that does not even start the first time is no finding.
        let first = stage.start().await?;

        let start = Instant::now();
        let load =
            load::run(self.plan.clone(), control.clone(), |progress| beat.send_modify(|pulse| pulse.beat(progress)));
        let play = async {
            let last = Box::pin(scenes::play(&mut stage, first)).await;
            control.end.cancel();
            last
        };
        let (done, last) = tokio::join!(Box::pin(load), play);
        let mut done = done?;
        let jobs = self.close(&mut stage, last, receipts.take()).await;

        let remains = Remains::of(&stage.spool()).context("looking into the spool")?;
        done.ledger.failed_may_stay();
        let mut reader = Reader::new(stage.store()?, Payloads::new(self.plan.run, self.plan.payload_size));
        reader.read(&mut done.ledger).await?;
        let shown = Shown { seconds: start.elapsed().as_secs_f64(), done, jobs, remains, objects: reader.objects() };
        let (tracks, s3) = stage.strike().await;
        let mut verdict = Verdict::new(&self, tracks, s3, shown);
        if verdict.failed() {
            verdict.kept = Some(folder.keep());
        }
        Ok(verdict)
    }

    /// Lets the last server drain the spool, asks it about the receipts, and stops it.
    async fn close(&self, stage: &mut Stage<'_>, last: anyhow::Result<Server>, receipts: Vec<Vec<u8>>) -> Jobs {
        let closed = async {
            let mut server = match last {
                Ok(server) => server,
                // Another may do what that one could not.
                Err(wrong) => {
                    stage.broken(format!("{wrong:#}"));
                    stage.store_back().await?;
                    stage.start().await?
                }
            };
            stage.drain(&mut server).await?;
            let jobs = Jobs::ask(server.addr()?, &receipts, &self.plan, self.settle).await;
            stage.stop(server).await?;
            anyhow::Ok(jobs)
        };
        match Box::pin(closed).await {
            Ok(jobs) => jobs,
            Err(wrong) => {
                stage.broken(format!("{wrong:#}"));
                Jobs::default()
            }
        }
    }
}
