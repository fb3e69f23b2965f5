//! The command line.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use loadtest::baseline::Baseline;
use loadtest::batch::{Encoding, Form};
use loadtest::load::{Plan, Rate, Shape, Spike};
use loadtest::readback::Store;
use loadtest::s3::{Fault, FaultPlan};
use loadtest::server::Program;
use loadtest::trial::{self, Place, Target, Trial};
use loadtest::{payload, units};
use serde::{Deserialize, Deserializer};

use crate::besiege::BesiegeArgs;
use crate::prove::ProveArgs;
use crate::scenario::ScenarioArgs;

/// What runs an S3 server in this process.
const S3_FLAGS: &str = "--in-process-s3 or --in-memory-s3";

/// Sends millpond numbered payloads, reads the store back and prints the ledger.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load one server, then check that everything it accepted is stored. Exits with 1 if not.
    Run(Box<RunArgs>),
    /// Run an S3 server over a folder, faults and all.
    S3(S3Args),
    /// Run a server to compare with.
    Baseline(BaselineArgs),
    /// Run scenarios, each a file that asks a question, and answer them. Exits with 1 if an answer is no.
    Scenario(ScenarioArgs),
    /// Kill, starve or replace servers under load, and check that nothing accepted was lost by it. Exits with 1 if so.
    Prove(Box<ProveArgs>),
    /// Load the floor, the other baselines and variants of a server in turn, and print the medians side by side. Exits
    /// with 1 if a variant broke a promise.
    Compare(Box<CompareArgs>),
    /// Print what changed from one JSON report of `run` or `compare` to another
    Diff(DiffArgs),
    /// Attack a server on this machine, or start one and see what a normal load beside each attack notices. Exits with 1
    /// if anything of the load was refused or lost.
    Attack(Box<BesiegeArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A server that is running, as http://127.0.0.1:8080
    #[arg(long, group = "whom")]
    url: Option<String>,
    /// Its admin listener, to look at its metrics once a second, as http://127.0.0.1:9090
    #[arg(long, requires = "url")]
    admin_url: Option<String>,
    /// A server to start on free ports, and to stop at the end
    #[arg(long, group = "whom")]
    spawn: Option<PathBuf>,
    /// Start a baseline instead; of the floor nothing is read back
    #[arg(long, group = "whom", value_name = "NAME")]
    spawn_baseline: Option<Baseline>,
    /// Environment of the server that is started, repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A file for the log of the server that is started [default: standard error]
    #[arg(long)]
    server_log: Option<PathBuf>,
    /// Where the server's objects are: dir:PATH or s3://BUCKET/PREFIX [default with --spawn: a fresh folder]
    #[arg(long, conflicts_with = "in_process_s3")]
    store: Option<String>,
    /// Run an S3 server in this process and point the started server at it
    #[arg(long)]
    in_process_s3: bool,
    /// The same, but it keeps the objects in memory and costs as little as can be
    #[arg(long, conflicts_with_all = ["store", "in_process_s3"])]
    in_memory_s3: bool,
    #[command(flatten)]
    faults: FaultArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Send SIGTERM to the server this long after the load began
    #[arg(long, value_parser = units::duration)]
    stop_after: Option<Duration>,
    /// Wait this long for what was accepted to be in the store [default: 90s with --url, else 0]
    #[arg(long, value_parser = units::duration)]
    settle: Option<Duration>,
    /// How long the server may take to stop before it is killed
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    exit_limit: Duration,
    /// Write the report here too, as JSON
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// And here as one HTML file, with charts
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The JSON file from before
    pub(crate) before: PathBuf,
    /// The one from after
    pub(crate) after: PathBuf,
}

/// Also the `[load]` of a scenario, where a name and a default are the same.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LoadArgs {
    /// Requests a second over all connections: 20000, or 1000..20000 for a rate that changes evenly over the duration; 0
    /// is as fast as they are answered
    #[arg(long, default_value = "0")]
    rate: Rate,
    /// Another rate for a time: 50000@10s+5s is 50000 requests a second from 10 s on for 5 s
    #[arg(long, value_name = "RATE@START+LENGTH")]
    spike: Option<Spike>,
    /// Connections, up to 10000
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// The share of requests, from 0 to 1, that give their connection up for a new one
    #[arg(long, default_value_t = 0.0)]
    new_connections: f64,
    /// Devices that are simulated, which number their payloads each for itself [default: as many as connections]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    endpoints: u32,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// How long to send [default: 10s unless --requests is given]
    #[arg(long, value_parser = units::duration)]
    #[serde(deserialize_with = "some_duration")]
    pub(crate) duration: Option<Duration>,
    /// How many requests to send
    #[arg(long)]
    requests: Option<u64>,
    /// Payloads in a request: s, m and l are 1, 10 and 100; mixed is all of them, 14 to 5 to 1 [default: m]
    #[arg(long, conflicts_with = "payloads")]
    shape: Option<Shape>,
    /// Payloads in a request, as a number
    #[arg(long)]
    payloads: Option<usize>,
    /// Bytes of a payload
    #[arg(long, value_parser = units::size, default_value_t = payload::DEFAULT_SIZE)]
    #[serde(deserialize_with = "size")]
    payload_size: usize,
    /// How the payloads of a request are put together
    #[arg(long, value_enum, default_value_t)]
    form: Form,
    /// How bodies are encoded
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    /// The acknowledgement to ask for, as ?ack=
    #[arg(long)]
    ack: Option<String>,
    /// The path of the requests
    #[arg(long, default_value = "/v1/payloads")]
    path: String,
    /// The token to send with them
    #[arg(long, default_value = "loadtest")]
    token: String,
    /// How long to wait for an answer
    #[arg(long, value_parser = units::duration, default_value = "30s")]
    #[serde(deserialize_with = "duration")]
    timeout: Duration,
    /// The run's id, in hexadecimal; payloads of other runs in the store are left out of account [default: random]
    #[arg(long, value_parser = |text: &str| u32::from_str_radix(text, 16))]
    #[serde(skip)]
    run: Option<u32>,
}

/// Also the `[faults]` of a scenario.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FaultArgs {
    /// What goes wrong with PUTs, in turn: slowdown, 500, denied, no-bucket, drop-before, drop-after, hang, delay:TIME
    #[arg(long, value_delimiter = ',')]
    #[serde(deserialize_with = "all_parsed")]
    faults: Vec<Fault>,
    /// The share of PUTs that go wrong
    #[arg(long, default_value_t = 0.2)]
    fault_share: f64,
}

#[derive(Debug, Args)]
pub(crate) struct S3Args {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// The folder to serve
    #[arg(long, default_value = "./loadtest-s3")]
    pub(crate) dir: PathBuf,
    /// The bucket to make in it
    #[arg(long, default_value = "millpond")]
    pub(crate) bucket: String,
    #[command(flatten)]
    faults: FaultArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BaselineArgs {
    /// Which
    pub(crate) baseline: Baseline,
    /// The address to listen on
    #[arg(long, env = "LISTEN_ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// The bucket that payloads are put into; how to reach it is in the AWS_* variables
    #[arg(long, env = "S3_BUCKET")]
    pub(crate) bucket: Option<String>,
    /// Workers of the dispatcher, each with an upload at a time
    #[arg(long, env = "MAX_WORKERS", default_value = "16")]
    pub(crate) max_workers: NonZeroUsize,
    /// Payloads that the queue holds
    #[arg(long, env = "MAX_QUEUE", default_value = "10000")]
    pub(crate) max_queue: NonZeroUsize,
    /// Memory that the server may take before the operating system ends it
    #[arg(long, value_parser = units::size, default_value = "8GiB")]
    pub(crate) max_memory: usize,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The server to compare with the floor
    #[arg(long)]
    spawn: PathBuf,
    /// A name and an environment for the server, as 'gzip:COMPRESSION=gzip,ACK=memory', repeated
    #[arg(long = "variant", value_name = "NAME:NAME=VALUE,…", value_parser = variant)]
    variants: Vec<Variant>,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Run the designs of the story too: a task per payload, one uploader, a dispatcher with a PUT per payload
    #[arg(long, requires = "s3")]
    baselines: bool,
    /// Wait this long for what these accepted to be in the store, before they are stopped
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    settle: Duration,
    /// Store into an S3 server in this process instead of a folder
    #[arg(long, group = "s3")]
    in_process_s3: bool,
    /// The same, but it keeps the objects in memory and costs as little as can be
    #[arg(long, group = "s3")]
    in_memory_s3: bool,
    #[command(flatten)]
    faults: FaultArgs,
    /// A folder for the logs of the servers [default: they are thrown away]
    #[arg(long)]
    server_logs: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    /// Write all reports here too, as JSON
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct Variant {
    name: String,
    env: Vec<(String, String)>,
}

impl LoadArgs {
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let shape = match (self.shape, self.payloads) {
            (Some(_), Some(_)) => bail!("give a shape or a number of payloads"),
            (Some(shape), None) => shape,
            (None, payloads) => Shape::Even(payloads.unwrap_or(10)),
        };
        let mut path = self.path.clone();
        if let Some(ack) = &self.ack {
            path += if path.contains('?') { "&ack=" } else { "?ack=" };
            path += ack;
        }
        let default = self.requests.is_none().then_some(Duration::from_secs(10));
        let plan = Plan {
            target: SocketAddr::from(([127, 0, 0, 1], 0)),
            path,
            rate: Rate { spike: self.spike, ..self.rate },
            endpoints: self.endpoints,
            connections: self.connections,
            new_connections: self.new_connections,
            threads: self.threads,
            duration: self.duration.or(default),
            requests: self.requests,
            shape,
            payload_size: self.payload_size,
            run: self.run.unwrap_or_else(|| fastrand::u32(..)),
            form: self.form,
            encoding: self.encoding,
            token: self.token.clone(),
            timeout: self.timeout,
        };
        plan.check()?;
        Ok(plan)
    }
}

impl Default for LoadArgs {
    fn default() -> Self {
        defaults()
    }
}

impl Default for FaultArgs {
    fn default() -> Self {
        defaults()
    }
}

impl FaultArgs {
    pub(crate) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn plan(&self) -> anyhow::Result<FaultPlan> {
        if self.faults.is_empty() { Ok(FaultPlan::none()) } else { FaultPlan::share(self.fault_share, &*self.faults) }
    }
}

impl S3Args {
    pub(crate) fn faults(&self) -> anyhow::Result<FaultPlan> {
        self.faults.plan()
    }
}

impl RunArgs {
    pub(crate) async fn trial(&self) -> anyhow::Result<Trial> {
        let mut plan = self.load.plan()?;
        let started =
            |path: PathBuf| Program { path, args: Vec::new(), env: self.env.clone(), log: self.server_log.clone() };
        let target = match (&self.url, &self.spawn, self.spawn_baseline) {
            (Some(url), None, None) => {
                let (address, path) = trial::resolve(url).await?;
                plan.target = address;
                plan.path = path.unwrap_or(plan.path);
                Target::Running
            }
            (None, Some(path), None) => Target::Spawn(started(path.clone())),
            (None, None, Some(baseline)) => {
                let program = baseline.program()?;
                Target::Baseline(Program { args: program.args, ..started(program.path) })
            }
            _ => bail!("give one of --url, --spawn and --spawn-baseline"),
        };
        if matches!(target, Target::Running) && self.stop_after.is_some() {
            bail!("--stop-after is for a server that is started here: use --spawn");
        }
        if !self.in_process_s3 && !self.in_memory_s3 && !self.faults.is_empty() {
            bail!("--faults is for the S3 server of this process: use {S3_FLAGS}");
        }
        let place = match (&self.store, &target) {
            _ if self.in_process_s3 => Place::InProcess(self.faults.plan()?),
            _ if self.in_memory_s3 => Place::InMemory(self.faults.plan()?),
            (Some(store), _) => Place::Given(parse_store(store).await?),
            (None, Target::Spawn(_)) => Place::Fresh,
            (None, Target::Running | Target::Baseline(_)) => Place::Nowhere,
        };
        let admin = match &self.admin_url {
            Some(url) => Some(trial::resolve(url).await?.0),
            None => None,
        };
        let settle = if self.url.is_some() { Duration::from_secs(90) } else { Duration::ZERO };
        Ok(Trial {
            name: "loadtest".to_owned(),
            plan,
            target,
            place,
            admin,
            stop_after: self.stop_after,
            settle: self.settle.unwrap_or(settle),
            exit_limit: self.exit_limit,
        })
    }
}

impl CompareArgs {
    /// The trials of one round: the floor, the other baselines, then each variant.
    pub(crate) fn round(&self, number: usize) -> anyhow::Result<Vec<Trial>> {
        if self.baselines && (self.load.form != Form::Envelope || self.load.encoding != Encoding::Identity) {
            bail!("the baselines take an envelope as it is: leave --form and --encoding out");
        }
        let unnamed = [Variant { name: "server".to_owned(), env: Vec::new() }];
        let variants = if self.variants.is_empty() { &unnamed[..] } else { &self.variants };
        let log = |name: &str| match &self.server_logs {
            Some(folder) => folder.join(format!("{name}-{number}.log")),
            None => PathBuf::from("/dev/null"),
        };
        let place = match (self.in_process_s3, self.in_memory_s3) {
            (true, _) => Place::InProcess(self.faults.plan()?),
            (_, true) => Place::InMemory(self.faults.plan()?),
            (false, false) if self.faults.is_empty() => Place::Fresh,
            (false, false) => bail!("--faults is for the S3 server of this process: use {S3_FLAGS}"),
        };
        let baseline = |baseline: Baseline, place: Place| {
            let name = baseline.name();
            let program = Program { log: Some(log(name)), ..baseline.program()? };
            self.trial(name, Target::Baseline(program), place, self.settle)
        };
        let mut trials = vec![baseline(Baseline::Floor, Place::Nowhere)?];
        for design in Baseline::STORY.into_iter().filter(|_| self.baselines) {
            trials.push(baseline(design, place.clone())?);
        }
        for variant in variants {
            let program = Program {
                path: self.spawn.clone(),
                args: Vec::new(),
                env: variant.env.clone(),
                log: Some(log(&variant.name)),
            };
            trials.push(self.trial(&variant.name, Target::Spawn(program), place.clone(), Duration::ZERO)?);
        }
        Ok(trials)
    }

    fn trial(&self, name: &str, target: Target, place: Place, settle: Duration) -> anyhow::Result<Trial> {
        Ok(Trial {
            name: name.to_owned(),
            plan: self.load.plan()?,
            target,
            place,
            admin: None,
            stop_after: None,
            settle,
            exit_limit: Duration::from_secs(60),
        })
    }
}

async fn parse_store(text: &str) -> anyhow::Result<Store> {
    if let Some(path) = text.strip_prefix("dir:") {
        return Ok(Store::Dir(PathBuf::from(path)));
    }
    let rest =
        text.strip_prefix("s3://").with_context(|| format!("{text:?} is neither dir:PATH nor s3://BUCKET/PREFIX"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Store::s3_from_env(bucket, prefix).await)
}

pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn variant(text: &str) -> Result<Variant, String> {
    let (name, env) = text.split_once(':').unwrap_or((text, ""));
    let env = env.split(',').filter(|pair| !pair.is_empty()).map(variable).collect::<Result<_, _>>()?;
    Ok(Variant { name: name.to_owned(), env })
}

/// What the arguments are when none is given, so that a file that leaves them out means the same.
pub(crate) fn defaults<A: Args>() -> A {
    let command = A::augment_args(clap::Command::new("defaults").no_binary_name(true));
    let matches = command.get_matches_from(std::iter::empty::<&str>());
    A::from_arg_matches(&matches).unwrap_or_else(|wrong| wrong.exit())
}

/// Reads a time from a file, as on the command line.
pub(crate) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    units::duration(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

pub(crate) fn some_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

/// Reads a size from a file: a number of bytes, or a text as on the command line.
pub(crate) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bytes(usize),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Bytes(bytes) => Ok(bytes),
        Written::Text(text) => units::size(&text).map_err(serde::de::Error::custom),
    }
}

pub(crate) fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    size(from).map(Some)
}

fn all_parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
