//! The command `prove`: proofs one after the other, each with a verdict.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::{FaultArgs, LoadArgs, variable};
use super::output::{self, Exit, note, show};
use crate::load::{Control, Plan, Rate, Shape};
use crate::proof::{DaemonSettings, Event, Failure, Fleet, Mirrors, Proof, Ramp, Setup, Upgrade, Verdict, WorkerTier};
use crate::s3::{Fault, FaultPlan};
use crate::server::Program;
use crate::units;

/// The fault of a slow store, unless `--faults` says otherwise.
const SLOW: Fault = Fault::Delay(Duration::from_secs(2));

/// The rate, unless `--rate` says otherwise.
const RATE: Rate = Rate::steady(2_000.0);

/// The rate of a proof of upgrades, over all its clients.
const UPGRADE_RATE: Rate = Rate::steady(5_000.0);

/// Upgrades in a row, unless `--rounds` says otherwise.
const UPGRADES: u32 = 20;

/// Kills of the other server of a rollout, unless `--rounds` says otherwise.
const KILLS_OF_ROLLOUT: u32 = 3;

/// The rate of a proof of a fleet, over all its front ends.
const FLEET_RATE: Rate = Rate::steady(200.0);

/// Failures of a fleet, unless `--rounds` says otherwise: each happens three times.
const FLEET_ROUNDS: u32 = 24;

/// Faults of S3 in a fleet, unless `--faults` says otherwise.
const FLEET_FAULTS: [Fault; 4] = [Fault::SlowDown, Fault::DropAfter, Fault::InternalError, Fault::UnavailableAfter];
const FLEET_FAULT_SHARE: f64 = 0.1;

/// Rounds of the comparison of mirrors, unless `--rounds` says otherwise: each of its servers is the first of a round once.
const MIRROR_ROUNDS: u32 = 5;

/// Messages a second, kills, and the time after which the daemon posts a rejected message again, in a proof of a worker environment:
/// ten attempts take less time than the store is away.
const MESSAGE_RATE: Rate = Rate::steady(400.0);
const KILLS_OF_WORKER_TIER: u32 = 5;
const ERROR_VISIBILITY: Duration = Duration::from_millis(500);

/// What a proof is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Event(Event),
    Upgrade,
    Rollout,
    Sqsd,
    Fleet,
}

impl ValueEnum for Subject {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Event(Event::Kill),
            Self::Event(Event::Outage),
            Self::Event(Event::SlowStore),
            Self::Event(Event::Stop),
            Self::Event(Event::DiskFull),
            Self::Event(Event::Takeover),
            Self::Upgrade,
            Self::Rollout,
            Self::Sqsd,
            Self::Fleet,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Event(event) => event.to_possible_value(),
            Self::Upgrade => Some(PossibleValue::new("upgrade").help(
                "New processes receive the listeners of old ones by HANDOVER_SOCKET, fail to, and are killed meanwhile",
            )),
            Self::Rollout => Some(PossibleValue::new("rollout").help(
                "A server forwards from 0 to 100 percent of its requests to another one and back, which is killed at 50 percent",
            )),
            Self::Sqsd => Some(PossibleValue::new("sqsd").help(
                "The daemon of a worker environment posts messages to a server that is overloaded, without its store, and killed",
            )),
            Self::Fleet => Some(PossibleValue::new("fleet").help(
                "Front ends, workers and nodes of their broker are killed, paused and cut off in turn, and S3 is away",
            )),
        }
    }
}

/// Arguments of a proof of a fleet.
#[derive(Debug, Args)]
struct FleetArgs {
    /// The nats-server of the broker of a fleet
    #[arg(long)]
    nats: Option<PathBuf>,
    /// Nodes of the broker
    #[arg(long, default_value = "3", value_parser = ["1", "3", "5"])]
    nodes: String,
    /// Front ends of a fleet
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    fronts: u32,
    /// Workers of a fleet
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    workers: u32,
    /// What fails in a fleet [default: what needs no root, except for all nodes at once]
    #[arg(long, value_enum, value_delimiter = ',')]
    failures: Vec<Failure>,
    /// Leave sync_interval of the nodes at its default, with which a power cut loses batches: the verdict is then FAILED
    #[arg(long)]
    no_sync: bool,
}

/// The verdict of any proof.
struct Proved {
    failed: bool,
    text: String,
    json: serde_json::Value,
}

impl Proved {
    fn new(verdict: &Verdict<impl Display + Serialize>) -> anyhow::Result<Self> {
        Self::of(verdict.failed(), verdict)
    }

    fn of(failed: bool, verdict: &(impl Display + Serialize)) -> anyhow::Result<Self> {
        Ok(Self { failed, text: verdict.to_string(), json: serde_json::to_value(verdict)? })
    }
}

#[derive(Debug, Args)]
pub(super) struct ProveArgs {
    /// What happens to the servers, or to their store or disk
    #[arg(required = true, value_enum)]
    subjects: Vec<Subject>,
    /// The server to start, and to start again
    #[arg(long)]
    spawn: PathBuf,
    /// The environment of the servers, repeated; it overrides that of the proof
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// How often it happens [default: kill 20, stop 10, takeover 6, outage 3, disk-full 2, slow-store 1, upgrade 20, fleet 24, sqsd 5, rollout 3, or 5 with --ghost]
    #[arg(long)]
    rounds: Option<u32>,
    /// How often the old or the new process of an upgrade, or the other server of a rollout, is killed [default: as --rounds]
    #[arg(long, value_name = "ROUNDS")]
    kill: Option<u32>,
    /// Stop the old process before the new one starts instead of an upgrade: shows that the verdict then is FAILED
    #[arg(long)]
    restart: bool,
    /// Instead of a ramp-up, compare latency and CPU without a mirror and with copies of all requests to a server that is prompt, slow,
    /// hanging and away
    #[arg(long)]
    ghost: bool,
    /// The seed of the random times at which it happens; a verdict has its seed [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// The shortest life of a server in a round of kill, stop, takeover, upgrade and sqsd
    #[arg(long, value_parser = units::duration, default_value = "200ms")]
    min_life: Duration,
    /// The longest life
    #[arg(long, value_parser = units::duration, default_value = "1500ms")]
    max_life: Duration,
    /// How long a store is away, or slow; the time before the first upgrade; the time of each step of a rollout
    #[arg(long, value_parser = units::duration, default_value = "8s")]
    span: Duration,
    /// The size of the disk that becomes full: a tmpfs, where one can be mounted
    #[arg(long, value_parser = units::size, default_value = "16MiB")]
    disk: usize,
    /// Fill SPOOL_MAX_BYTES instead of a disk, even where a tmpfs can be mounted
    #[arg(long)]
    no_tmpfs: bool,
    #[command(flatten)]
    load: LoadArgs,
    /// How many receipts to look up
    #[arg(long, default_value_t = 200)]
    receipts: usize,
    /// How long the spool may take to drain, or a full one to accept requests again
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    settle: Duration,
    /// How long a server may take to stop before it is killed
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    exit_limit: Duration,
    /// Store into an S3 server in this process instead of a directory
    #[arg(long)]
    in_process_s3: bool,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    faults: FaultArgs,
    /// Where to make a directory for spool, store and logs; it stays if the proof fails [default: for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the verdicts to this file too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(super) async fn run(args: &ProveArgs) -> anyhow::Result<Exit> {
    output::check(&args.json)?;
    let control = Control::default();
    let verdicts = output::interruptible(&control, Box::pin(all(args, &control))).await?;
    output::write_json(&args.json, &verdicts.iter().map(|proved| &proved.json).collect::<Vec<_>>())?;
    Ok(Exit::broken_if(verdicts.iter().any(|proved| proved.failed)))
}

async fn all(args: &ProveArgs, control: &Control) -> anyhow::Result<Vec<Proved>> {
    let mut verdicts = Vec::new();
    for subject in &args.subjects {
        let proved = Box::pin(args.prove(*subject, control.child())).await.with_context(|| subject.name())?;
        show(&proved.text);
        verdicts.push(proved);
        if control.end.is_cancelled() {
            break;
        }
    }
    Ok(verdicts)
}

impl Subject {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl ProveArgs {
    async fn prove(&self, subject: Subject, control: Control) -> anyhow::Result<Proved> {
        match subject {
            Subject::Event(event) => Proved::new(&Box::pin(self.proof(event)?.run(control, note)).await?),
            Subject::Upgrade => Proved::new(&Box::pin(self.upgrade()?.run(control, note)).await?),
            Subject::Rollout if self.ghost => Proved::new(&Box::pin(self.mirrors()?.run(control, note)).await?),
            Subject::Rollout => Proved::new(&Box::pin(self.ramp()?.run(control, note)).await?),
            Subject::Sqsd => {
                let verdict = Box::pin(self.worker_tier()?.run(control, note)).await?;
                Proved::of(verdict.failed(), &verdict)
            }
            Subject::Fleet => Proved::new(&Box::pin(self.fleet()?.run(control, note)).await?),
        }
    }

    fn proof(&self, event: Event) -> anyhow::Result<Proof> {
        let is_slow = event == Event::SlowStore;
        let in_process_s3 = self.in_process_s3 || is_slow;
        self.faults.check(in_process_s3)?;
        Ok(Proof {
            event,
            setup: self.setup(self.rounds.unwrap_or(event.rounds()), RATE)?,
            in_process_s3,
            faults: if is_slow && self.faults.is_empty() { FaultPlan::always(SLOW) } else { self.faults.plan()? },
            disk_bytes: self.disk,
            real_disk: !self.no_tmpfs,
            receipts: self.receipts,
        })
    }

    fn upgrade(&self) -> anyhow::Result<Upgrade> {
        let rounds = self.rounds.unwrap_or(UPGRADES);
        let setup = self.mixed(rounds, UPGRADE_RATE)?;
        Ok(Upgrade { setup, kill_rounds: self.kill.unwrap_or(rounds), restart: self.restart })
    }

    fn ramp(&self) -> anyhow::Result<Ramp> {
        Ok(Ramp { setup: self.mixed(self.kill.or(self.rounds).unwrap_or(KILLS_OF_ROLLOUT), RATE)? })
    }

    fn worker_tier(&self) -> anyhow::Result<WorkerTier> {
        let daemon = DaemonSettings { error_visibility_timeout: ERROR_VISIBILITY, ..DaemonSettings::default() };
        Ok(WorkerTier { setup: self.setup(self.rounds.unwrap_or(KILLS_OF_WORKER_TIER), MESSAGE_RATE)?, daemon })
    }

    fn mirrors(&self) -> anyhow::Result<Mirrors> {
        Ok(Mirrors { setup: self.single(self.rounds.unwrap_or(MIRROR_ROUNDS), RATE)? })
    }

    fn fleet(&self) -> anyhow::Result<Fleet> {
        let FleetArgs { nats, nodes, fronts, workers, failures, no_sync } = &self.fleet;
        let failures = if failures.is_empty() { Failure::USUAL.to_vec() } else { failures.clone() };
        let faults = if self.faults.is_empty() {
            FaultPlan::share(FLEET_FAULT_SHARE, FLEET_FAULTS)?
        } else {
            self.faults.plan()?
        };
        Ok(Fleet {
            setup: self.setup(self.rounds.unwrap_or(FLEET_ROUNDS), FLEET_RATE)?,
            nats: nats.clone().context("a fleet needs a broker: give a nats-server with --nats")?,
            nodes: nodes.parse()?,
            fronts: *fronts,
            workers: *workers,
            failures,
            no_sync: *no_sync,
            duration: self.load.duration,
            faults,
        })
    }

    /// For a load of several kinds of clients.
    fn mixed(&self, rounds: u32, rate: Rate) -> anyhow::Result<Setup> {
        ensure!(!self.load.http2, "this load has HTTP/2 connections already: leave --http2 out");
        self.single(rounds, rate)
    }

    /// With one payload in a request, unless another number is given.
    fn single(&self, rounds: u32, rate: Rate) -> anyhow::Result<Setup> {
        let mut setup = self.setup(rounds, rate)?;
        if !self.load.has_shape() {
            setup.plan.shape = Shape::Even(1);
        }
        Ok(setup)
    }

    fn setup(&self, rounds: u32, rate: Rate) -> anyhow::Result<Setup> {
        ensure!(self.min_life <= self.max_life, "--min-life is longer than --max-life");
        Ok(Setup {
            // Short enough to be typed.
            seed: self.seed.unwrap_or_else(|| fastrand::u32(..).into()),
            rounds,
            life: self.min_life..=self.max_life,
            span: self.span,
            plan: self.plan(rate)?,
            program: Program { path: self.spawn.clone(), args: Vec::new(), env: self.env.clone(), log: None },
            settle: self.settle,
            exit_limit: self.exit_limit,
            folder: self.dir.clone(),
        })
    }

    /// The load, with this rate unless another one is given.
    fn plan(&self, rate: Rate) -> anyhow::Result<Plan> {
        ensure!(!self.load.tls, "a proof has several servers, and certificates of its own: leave --tls out");
        let mut plan = self.load.plan()?;
        if plan.rate.is_unpaced() {
            plan.rate = rate;
        }
        Ok(plan)
    }
}
