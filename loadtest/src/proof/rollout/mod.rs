//! The proof of a ramp-up: a server forwards a rising and then falling share of its requests to another version.
//!
//! Two servers, each with a spool of its own, share a store. The load goes to the first one. Its `ROLLOUT_FILE` is rewritten under
//! load, from 0 to 100 percent and back; at 50 percent the other server is killed and started again. A request that failed is a
//! finding, except for a 503 while the other server is killed: the outcome of a request that was on its way is unknown, and the
//! client sends it again. In the steps before and after it, no request may fail.

mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use self::verdict::RolloutVerdict;
use super::phase::{Client, Mix, Phase, Tolerance};
use super::upgrade::drained;
use super::{RESERVED, SpoolContents};
use crate::client::{self, Target};
use crate::load::{Control, Plan};
use crate::payload::Payloads;
use crate::readback::{Reader, Store};
use crate::s3::S3Server;
use crate::server::{Program, Server};

/// The percentages before and after the kills.
const UP: [u8; 4] = [0, 1, 10, 50];
const DOWN: [u8; 5] = [100, 50, 10, 1, 0];

/// The percentage at which the other server is killed.
const KILL_AT: u8 = 50;

/// How long a new version of the file may take to be in force.
const IN_FORCE_LIMIT: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(100);

const STORE_LIMIT: usize = 2 << 30;

/// A proof of a ramp-up.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ramp {
    /// The seed of the random times.
    pub seed: u64,
    /// Kills of the other server.
    pub kill_rounds: u32,
    /// The longest random time until a kill, and until the start after it.
    pub life: Duration,
    /// The duration of each step, from when it is in force.
    pub step: Duration,
    /// What to send. The rate is that of all clients.
    pub plan: Plan,
    pub program: Program,
    pub settle: Duration,
    pub exit_limit: Duration,
    /// As in a [`Proof`](super::Proof).
    pub folder: Option<PathBuf>,
}

/// A step: what the first server has counted in it, and what the clients were told.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub percent: u8,
    pub counts: Counts,
    pub phase: Phase,
}

/// Forwarded requests by result, from `/v1/status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub passed: u64,
    pub taken_here: u64,
    pub unknown: u64,
    /// Whether the guard has stopped it.
    pub is_tripped: bool,
}

#[derive(Debug, Deserialize)]
struct Status {
    rollout: Option<RolloutStatus>,
}

#[derive(Debug, Deserialize)]
struct RolloutStatus {
    forward: Option<ForwardStatus>,
}

#[derive(Debug, Deserialize)]
struct ForwardStatus {
    percent: f64,
    passed_total: u64,
    taken_here_total: u64,
    unknown_total: u64,
    tripped: Option<serde_json::Value>,
}

/// The servers, and the file of the first one.
struct Pair {
    file: PathBuf,
    first: Server,
    other: Server,
    program: Program,
    other_url: String,
    starts: u32,
    /// How long the admin listener may take.
    start_limit: Duration,
    times: fastrand::Rng,
}

impl Ramp {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<RolloutVerdict> {
        for name in RESERVED.into_iter().chain(["ROLLOUT_FILE", "TRUSTED_PROXIES"]) {
            let is_given = self.program.env.iter().any(|(given, _)| given == name);
            ensure!(!is_given, "{name} is set by the proof: leave it out");
        }
        let folder = match &self.folder {
            Some(parent) => TempDir::with_prefix_in("loadtest-", parent),
            None => TempDir::with_prefix("loadtest-"),
        }
        .context("making a directory")?;
        say(&format!("rollout: seed {}", self.seed));
        let s3 = S3Server::start_in_memory("millpond", STORE_LIMIT).await?;
        let mut pair = Pair::start(&self, folder.path(), &s3).await?;
        let start = Instant::now();
        let clients = Client::all(&self.plan, &pair.first.addr()?.into(), None);
        let mut mix = Mix::new(clients, control.clone());
        let (mut steps, mut broken) = (Vec::new(), Vec::new());
        let up = UP.map(|percent| (percent, false));
        let down = DOWN.map(|percent| (percent, false));
        for (percent, with_kills) in up.into_iter().chain([(KILL_AT, true)]).chain(down) {
            if control.end.is_cancelled() {
                break;
            }
            let (name, tolerance) = match with_kills {
                true => (format!("{percent}%, with kills"), Tolerance::Unavailable),
                false => (format!("{percent}%"), Tolerance::Nothing),
            };
            let events = pair.step(&self, percent, with_kills, &control);
            let (phase, counts) = Box::pin(mix.during(&name, tolerance, events)).await?;
            broken.extend(phase.wrong());
            say(&format!("rollout: {name}: {} failed", phase.failed));
            match counts {
                Ok(counts) => {
                    broken.extend(counts.wrong(percent).map(|wrong| format!("{name}: {wrong}")));
                    steps.push(Step { percent, counts, phase });
                }
                Err(wrong) => {
                    broken.push(format!("{name}: {wrong:#}"));
                    steps.push(Step { percent, counts: Counts::default(), phase });
                    break;
                }
            }
        }

        for name in ["a", "b"] {
            let spool = folder.path().join(name);
            if !drained(&spool, self.settle).await.context("reading the spool")? {
                broken.push(format!("the spool {name} was not drained within {:?} of the load's end", self.settle));
            }
        }
        let starts = pair.starts;
        for server in [pair.first, pair.other] {
            let _ = server.terminate();
            let exit = server.wait(self.exit_limit).await?;
            if exit.code != Some(0) {
                broken.push(format!("a server exited with {} when told to stop", exit.status));
            }
        }
        for name in ["a", "b"] {
            broken.extend(SpoolContents::of(&folder.path().join(name)).context("reading the spool")?.wrong());
        }
        let mut ledger = mix.into_ledger();
        ledger.failed_may_stay();
        let mut reader = Reader::new(Store::of(&s3), Payloads::new(self.plan.run, self.plan.payload_size));
        reader.read(&mut ledger).await?;
        let mut verdict = RolloutVerdict {
            name: "rollout",
            run: format!("{:08x}", self.plan.run),
            seed: self.seed,
            kill_rounds: self.kill_rounds,
            seconds: start.elapsed().as_secs_f64(),
            rate: self.plan.rate.to_string(),
            starts,
            steps,
            broken,
            objects: reader.objects(),
            ledger: ledger.totals(),
            kept: None,
        };
        s3.stop().await;
        if verdict.failed() {
            verdict.kept = Some(folder.keep());
        }
        Ok(verdict)
    }
}

impl Pair {
    async fn start(proof: &Ramp, folder: &Path, s3: &S3Server) -> anyhow::Result<Self> {
        let env = |name: &str, more: &[(&str, &str)]| {
            let spool = folder.join(name).to_string_lossy().into_owned();
            let own = [("OBJECT_MAX_AGE", "1s"), ("SPOOL_MAX_BYTES", "4GiB"), ("SPOOL_DIR", &*spool)];
            let mut env: Vec<_> =
                own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            env.extend(s3.env());
            env.extend(proof.program.env.iter().cloned());
            env
        };
        let file = folder.join("rollout.json");
        std::fs::write(&file, "{}")?;
        let mut program = Program {
            env: env("b", &[("TRUSTED_PROXIES", "127.0.0.1")]),
            log: Some(folder.join("b-1.log")),
            ..proof.program.clone()
        };
        let other = Server::start(&program).await?;
        let addr = other.addr()?;
        // It is started again where it was.
        program.env.push(("LISTEN_ADDR".to_owned(), addr.to_string()));
        let first = Program {
            env: env("a", &[("ROLLOUT_FILE", &file.to_string_lossy())]),
            log: Some(folder.join("a.log")),
            ..proof.program.clone()
        };
        let first = Server::start(&first).await?;
        let times = fastrand::Rng::with_seed(proof.seed);
        Ok(Self {
            file,
            first,
            other,
            program,
            other_url: format!("http://{addr}"),
            starts: 2,
            start_limit: proof.settle,
            times,
        })
    }

    /// A step, and what the first server has counted in it.
    async fn step(&mut self, proof: &Ramp, percent: u8, with_kills: bool, control: &Control) -> anyhow::Result<Counts> {
        let before = self.status().await?.map(|forward| forward.counts()).unwrap_or_default();
        self.put_in_force(percent).await?;
        if with_kills {
            for round in 1..=proof.kill_rounds {
                let [life, away] = [(); 2].map(|()| proof.life.mul_f64(self.times.f64()));
                let _ = tokio::time::timeout(life, control.end.cancelled()).await;
                self.restart_other(away).await.with_context(|| format!("kill {round} of {}", proof.kill_rounds))?;
                // The guard may have stopped it: the next kill has to find forwarded requests too.
                self.put_in_force(percent).await?;
            }
        }
        let _ = tokio::time::timeout(proof.step, control.end.cancelled()).await;
        let after = self.status().await?.context("ROLLOUT_FILE is not in force any more")?.counts();
        Ok(after.since(before))
    }

    /// Rewrites the file, and waits until the first server forwards as it says.
    async fn put_in_force(&self, percent: u8) -> anyhow::Result<()> {
        let plan = serde_json::json!({"forward": {"url": self.other_url, "percent": percent, "by": "request"}});
        let new = self.file.with_extension("new");
        std::fs::write(&new, plan.to_string())?;
        std::fs::rename(new, &self.file)?;
        let start = Instant::now();
        while !self
            .status()
            .await?
            .is_some_and(|forward| forward.percent == f64::from(percent) && forward.tripped.is_none())
        {
            ensure!(start.elapsed() < IN_FORCE_LIMIT, "the new ROLLOUT_FILE is not in force after {IN_FORCE_LIMIT:?}");
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// Kills the other server, and starts it again after `away`.
    async fn restart_other(&mut self, away: Duration) -> anyhow::Result<()> {
        self.starts += 1;
        let log = self.program.log.as_ref().map(|log| log.with_file_name(format!("b-{}.log", self.starts)));
        let program = Program { log, ..self.program.clone() };
        self.other.stop_at_once().await?;
        tokio::time::sleep(away).await;
        let start = Instant::now();
        loop {
            match Server::start(&program).await {
                Ok(server) => {
                    self.other = server;
                    return Ok(());
                }
                // An outgoing connection may have got the port.
                Err(wrong) if start.elapsed() > IN_FORCE_LIMIT => return Err(wrong),
                Err(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }

    /// What the first server says about what it forwards.
    async fn status(&self) -> anyhow::Result<Option<ForwardStatus>> {
        let admin = self.first.admin(self.start_limit).await?;
        let (status, body) = client::get(&Target::from(admin), "/v1/status", None).await.context("GET /v1/status")?;
        if status != 200 {
            bail!("GET /v1/status: {status}");
        }
        let status: Status = serde_json::from_str(&body).context("the status cannot be read")?;
        Ok(status.rollout.and_then(|rollout| rollout.forward))
    }
}

impl ForwardStatus {
    fn counts(&self) -> Counts {
        Counts {
            passed: self.passed_total,
            taken_here: self.taken_here_total,
            unknown: self.unknown_total,
            is_tripped: self.tripped.is_some(),
        }
    }
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            passed: self.passed.saturating_sub(before.passed),
            taken_here: self.taken_here.saturating_sub(before.taken_here),
            unknown: self.unknown.saturating_sub(before.unknown),
            is_tripped: self.is_tripped,
        }
    }

    /// What is wrong with them at this percentage.
    fn wrong(&self, percent: u8) -> Option<String> {
        (percent > 0 && self.passed == 0).then(|| "nothing was forwarded".to_owned())
    }
}
