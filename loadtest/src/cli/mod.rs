//! The command line.

mod args;
mod attack;
mod baseline;
mod compare;
mod output;
mod prove;
mod run;
mod scenario;
mod simulate;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::args::FaultArgs;
use self::output::{Exit, note, show};
use crate::baseline::{Baseline, Bucket, Settings};
use crate::diff::Diff;
use crate::s3::{self, S3Server};
use crate::{report, units};

/// Sends millpond numbered payloads, reads the store back, and reports the result of each payload.
///
/// Exits with 0 if all guarantees held, with 1 if one was broken, and with 2 if that could not be checked.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load one server, then check that everything it accepted is stored
    Run(Box<run::RunArgs>),
    /// Run an S3 server with faults over a directory
    S3(S3Args),
    /// Run a server to compare with
    Baseline(BaselineArgs),
    /// Run scenarios, each a file that asks a question; exits with 1 if an answer is no
    Scenario(scenario::ScenarioArgs),
    /// Kill, stop or replace servers under load, and check that nothing accepted was lost
    Prove(Box<prove::ProveArgs>),
    /// Compare a server or its variants with a baseline or another build
    Compare(Box<compare::CompareArgs>),
    /// Show what changed from one JSON report of `run`, `scenario` or `compare` to another
    Diff(DiffArgs),
    /// Attack a server on this machine beside a normal load; exits with 1 if the load was rejected or lost
    Attack(Box<attack::AttackArgs>),
    /// Simulate a group of machines: what an autoscaling policy rejects under a load, and what a billion payloads cost
    Simulate(Box<simulate::SimulateArgs>),
}

#[derive(Debug, Args)]
struct DiffArgs {
    /// The JSON file from before
    before: PathBuf,
    /// The JSON file from after
    after: PathBuf,
}

#[derive(Debug, Args)]
struct S3Args {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The directory of the objects
    #[arg(long, default_value = "./loadtest-s3")]
    dir: PathBuf,
    /// The bucket
    #[arg(long, default_value = "millpond")]
    bucket: String,
    #[command(flatten)]
    faults: FaultArgs,
}

#[derive(Debug, Args)]
struct BaselineArgs {
    /// Its name
    baseline: Baseline,
    /// The address to listen on
    #[arg(long, env = "LISTEN_ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The bucket for payloads; the AWS_* variables say how to reach it
    #[arg(long, env = "S3_BUCKET")]
    bucket: Option<String>,
    /// Workers of the dispatcher, each with one upload at a time
    #[arg(long, env = "MAX_WORKERS", default_value = "16")]
    max_workers: NonZeroUsize,
    /// Payloads in the queue
    #[arg(long, env = "MAX_QUEUE", default_value = "10000")]
    max_queue: NonZeroUsize,
    /// The limit of this process's memory
    #[arg(long, value_parser = units::size, default_value = "8GiB")]
    max_memory: usize,
}

/// Runs the command of the arguments of this process.
pub fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(exit) => exit.into(),
        Err(wrong) => {
            note(&format!("loadtest: {wrong:#}"));
            Exit::NotChecked.into()
        }
    }
}

#[tokio::main]
async fn execute(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => Box::pin(run::run(&args)).await,
        Command::S3(args) => serve_s3(&args).await,
        Command::Baseline(args) => serve_baseline(&args).await,
        Command::Scenario(args) => Box::pin(scenario::run(&args)).await,
        Command::Prove(args) => Box::pin(prove::run(&args)).await,
        Command::Attack(args) => Box::pin(attack::run(&args)).await,
        Command::Compare(args) => Box::pin(compare::run(&args)).await,
        Command::Diff(args) => diff(&args),
        Command::Simulate(args) => simulate::run(&args),
    }
}

fn diff(args: &DiffArgs) -> anyhow::Result<Exit> {
    let diffs = Diff::by_name(&report::read(&args.before)?, &report::read(&args.after)?);
    anyhow::ensure!(!diffs.is_empty(), "the files have no report of the same name");
    for diff in diffs {
        show(diff.to_string().trim_end());
    }
    Ok(Exit::Held)
}

async fn serve_s3(args: &S3Args) -> anyhow::Result<Exit> {
    let server = S3Server::start_on(args.listen, &args.dir, &args.bucket).await?;
    server.faults().set(args.faults.plan()?);
    for (name, value) in server.env() {
        show(&format!("export {name}={value}"));
    }
    stop_signal()?.await;
    note(&server.stats().to_string());
    server.stop().await;
    Ok(Exit::Held)
}

async fn serve_baseline(args: &BaselineArgs) -> anyhow::Result<Exit> {
    let bucket = match &args.bucket {
        Some(name) => Some(Arc::new(Bucket::new(s3::client_from_env().await, name))),
        None => None,
    };
    let settings = Settings { bucket, workers: args.max_workers, queue: args.max_queue };
    // A design without limits would take all of the machine's memory: an allocation beyond this limit ends the process.
    let limit = Some(args.max_memory as u64);
    setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit }).context("limiting this process's memory")?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("binding {}", args.listen))?;
    let stop = stop_signal()?;
    note(&format!("{}: listening addr={}", args.baseline.name(), listener.local_addr()?));
    args.baseline.serve(&settings, listener, stop).await?;
    Ok(Exit::Held)
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
