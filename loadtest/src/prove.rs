//! Scenarios one after the other, each with a verdict of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use loadtest::load::{Control, Plan, Rate, Shape};
use loadtest::proof::{Proof, Scene, Verdict};
use loadtest::s3::{Fault, FaultPlan};
use loadtest::server::Program;
use loadtest::{payload, units};
use serde::Deserialize;

use crate::cli::{self, FaultArgs, variable};
use crate::output;

/// What a slow store does with each PUT, unless `--faults` says otherwise.
const SLOW: Fault = Fault::Delay(Duration::from_secs(2));

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// What happens to the servers, or to their store or disk
    #[arg(required = true, value_parser = scene())]
    scenes: Vec<Scene>,
    /// The server to start, and to start again
    #[arg(long)]
    spawn: PathBuf,
    /// Environment of the servers, repeated; the scene's own gives way to it
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    proof: ProofArgs,
    /// Store into an S3 server in this process instead of a folder
    #[arg(long)]
    in_process_s3: bool,
    #[command(flatten)]
    faults: FaultArgs,
    /// Where to make a folder for spool, store and logs; it stays if the proof fails [default: for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the verdicts here too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Also the `[proof]` of a scenario, where a name and a default are the same.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ProofArgs {
    /// How often it happens [default: kill 20, stop 10, takeover 6, outage 3, disk-full 2, slow-store 1]
    #[arg(long)]
    pub(crate) rounds: Option<u32>,
    /// The seed of the random times at which it happens; a verdict tells its own [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// A server lives at least this long in a round of kill, stop and takeover
    #[arg(long, value_parser = units::duration, default_value = "200ms")]
    #[serde(deserialize_with = "cli::duration")]
    min_life: Duration,
    /// And at most this long
    #[arg(long, value_parser = units::duration, default_value = "1.5s")]
    #[serde(deserialize_with = "cli::duration")]
    max_life: Duration,
    /// How long a store is away, or slow
    #[arg(long, value_parser = units::duration, default_value = "8s")]
    #[serde(deserialize_with = "cli::duration")]
    span: Duration,
    /// The size of the disk that gets full: a tmpfs, where one can be mounted
    #[arg(long, value_parser = units::size, default_value = "16MiB")]
    #[serde(deserialize_with = "cli::size")]
    disk: usize,
    /// Let SPOOL_MAX_BYTES be what is full, even where a tmpfs can be mounted
    #[arg(long)]
    no_tmpfs: bool,
    /// Requests a second over all connections; 0 is as fast as they are answered
    #[arg(long, default_value = "2000")]
    rate: Rate,
    /// Connections, each an endpoint of its own
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Payloads in a request
    #[arg(long, default_value_t = 10)]
    payloads: usize,
    /// Bytes of a payload
    #[arg(long, value_parser = units::size, default_value_t = payload::DEFAULT_SIZE)]
    #[serde(deserialize_with = "cli::size")]
    payload_size: usize,
    /// The acknowledgement to ask for, as ?ack=
    #[arg(long)]
    ack: Option<String>,
    /// How many receipts to follow up
    #[arg(long, default_value_t = 200)]
    receipts: usize,
    /// How long the spool may take to drain, or a full one to take work again
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    #[serde(deserialize_with = "cli::duration")]
    settle: Duration,
    /// How long a server may take to stop before it is killed
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    #[serde(deserialize_with = "cli::duration")]
    exit_limit: Duration,
}

pub(crate) async fn run(args: &ProveArgs) -> anyhow::Result<bool> {
    output::check(&args.json)?;
    let control = Control::default();
    let verdicts = crate::interruptible(&control, Box::pin(all(args, &control))).await?;
    output::write_json(&args.json, &verdicts)?;
    Ok(!verdicts.iter().any(Verdict::failed))
}

async fn all(args: &ProveArgs, control: &Control) -> anyhow::Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for scene in &args.scenes {
        // Each load ends by itself, and all of them when this is interrupted.
        let this = Control { end: control.end.child_token(), ..Control::default() };
        let proof = args.proof(*scene)?;
        let verdict = Box::pin(proof.run(this, crate::note)).await.with_context(|| scene.name().to_owned())?;
        crate::show(&verdict.to_string());
        verdicts.push(verdict);
        if control.end.is_cancelled() {
            break;
        }
    }
    Ok(verdicts)
}

fn scene() -> impl TypedValueParser<Value = Scene> {
    let names = PossibleValuesParser::new(Scene::ALL.map(Scene::name));
    names.try_map(|name| Scene::named(&name).ok_or("no such scene"))
}

impl ProveArgs {
    fn proof(&self, scene: Scene) -> anyhow::Result<Proof> {
        let program = Program { path: self.spawn.clone(), args: Vec::new(), env: self.env.clone(), log: None };
        self.proof.proof(scene, program, self.in_process_s3, &self.faults, self.dir.clone())
    }
}

impl ProofArgs {
    pub(crate) fn proof(
        &self,
        scene: Scene,
        program: Program,
        in_process_s3: bool,
        faults: &FaultArgs,
        folder: Option<PathBuf>,
    ) -> anyhow::Result<Proof> {
        if self.min_life > self.max_life {
            bail!("--min-life is over --max-life");
        }
        let is_slow = scene == Scene::SlowStore;
        let in_process_s3 = in_process_s3 || is_slow;
        if !in_process_s3 && !faults.is_empty() {
            bail!("faults are for the S3 server of this process: use --in-process-s3");
        }
        let query = self.ack.as_ref().map(|ack| format!("?ack={ack}")).unwrap_or_default();
        let plan = Plan {
            path: format!("/v1/payloads{query}"),
            rate: self.rate,
            connections: self.connections,
            shape: Shape::Even(self.payloads),
            payload_size: self.payload_size,
            ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 0)))
        };
        plan.check()?;
        Ok(Proof {
            scene,
            rounds: self.rounds.unwrap_or(scene.rounds()),
            // Short enough to be typed.
            seed: self.seed.unwrap_or_else(|| fastrand::u32(..).into()),
            life: self.min_life..=self.max_life,
            span: self.span,
            plan,
            program,
            in_process_s3,
            faults: if is_slow && faults.is_empty() { FaultPlan::always(SLOW) } else { faults.plan()? },
            disk_bytes: self.disk,
            real_disk: !self.no_tmpfs,
            receipts: self.receipts,
            settle: self.settle,
            exit_limit: self.exit_limit,
            folder,
        })
    }
}

impl Default for ProofArgs {
    fn default() -> Self {
        cli::defaults()
    }
}
