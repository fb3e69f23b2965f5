//! The arguments of `run`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use loadtest::baseline::Baseline;
use loadtest::readback::Store;
use loadtest::server::Program;
use loadtest::trial::{self, Place, Target, Trial};
use loadtest::units;

use super::{FaultArgs, LoadArgs, S3_FLAGS, variable};

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

async fn parse_store(text: &str) -> anyhow::Result<Store> {
    if let Some(path) = text.strip_prefix("dir:") {
        return Ok(Store::Dir(PathBuf::from(path)));
    }
    let rest =
        text.strip_prefix("s3://").with_context(|| format!("{text:?} is neither dir:PATH nor s3://BUCKET/PREFIX"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Store::s3_from_env(bucket, prefix).await)
}
