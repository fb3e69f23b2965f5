//! The command line.

mod compare;
mod load;
mod run;
mod values;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use loadtest::baseline::Baseline;
use loadtest::s3::FaultPlan;
use loadtest::units;

pub(crate) use self::compare::CompareArgs;
pub(crate) use self::load::{FaultArgs, LoadArgs};
pub(crate) use self::run::RunArgs;
pub(crate) use self::values::{defaults, duration, size, some_duration, some_size, variable};

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
pub(crate) struct DiffArgs {
    /// The JSON file from before
    pub(crate) before: PathBuf,
    /// The one from after
    pub(crate) after: PathBuf,
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

impl S3Args {
    pub(crate) fn faults(&self) -> anyhow::Result<FaultPlan> {
        self.faults.plan()
    }
}
