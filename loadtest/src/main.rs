//! The command line of loadtest. It exits with 0 when all is well, with 1 when a promise was broken, and with 2 when
//! it could not find out.

mod besiege;
mod cli;
mod compare;
mod output;
mod progress;
mod prove;
#[cfg(test)]
mod sample;
mod scenario;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use loadtest::baseline::{Bucket, Settings};
use loadtest::diff::Diff;
use loadtest::load::Control;
use loadtest::report;
use loadtest::s3::{self, S3Server};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::cli::{BaselineArgs, Cli, Command, DiffArgs, RunArgs, S3Args};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(wrong) => {
            note(&format!("loadtest: {wrong:#}"));
            ExitCode::from(2)
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Command::Run(args) => Box::pin(run_one(&args)).await,
        Command::S3(args) => serve_s3(&args).await,
        Command::Baseline(args) => serve_baseline(&args).await,
        Command::Scenario(args) => Box::pin(scenario::run(&args)).await,
        Command::Prove(args) => Box::pin(prove::run(&args)).await,
        Command::Attack(args) => Box::pin(besiege::run(&args)).await,
        Command::Compare(args) => Box::pin(compare::run(&args)).await,
        Command::Diff(args) => diff(&args),
    }
}

async fn run_one(args: &RunArgs) -> anyhow::Result<bool> {
    let trial = args.trial().await?;
    output::check(&args.json)?;
    output::check(&args.html)?;
    let control = Control::default();
    let report = interruptible(&control, Box::pin(progress::watched(trial, control.clone()))).await?;
    show(&report.to_string());
    output::write_json(&args.json, &report)?;
    if let Some(path) = &args.html {
        output::write(path, report.html().as_bytes())?;
    }
    Ok(!report.failed())
}

fn diff(args: &DiffArgs) -> anyhow::Result<bool> {
    let diff = Diff::between(&report::read(&args.before)?, &report::read(&args.after)?);
    show(diff.to_string().trim_end());
    Ok(true)
}

async fn serve_s3(args: &S3Args) -> anyhow::Result<bool> {
    let server = S3Server::start_on(args.listen, &args.dir, &args.bucket).await?;
    server.faults().set(args.faults()?);
    for (name, value) in server.env() {
        show(&format!("export {name}={value}"));
    }
    stop_signal()?.await;
    note(&format!("{:?}", server.stats()));
    server.stop().await;
    Ok(true)
}

async fn serve_baseline(args: &BaselineArgs) -> anyhow::Result<bool> {
    let bucket = match &args.bucket {
        Some(name) => Some(Arc::new(Bucket::new(s3::client_from_env().await, name))),
        None => None,
    };
    let settings = Settings { bucket: bucket.clone(), workers: args.max_workers, queue: args.max_queue };
    limit_memory(args.max_memory as u64)?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("binding {}", args.listen))?;
    let stop = stop_signal()?;
    note(&format!("{}: listening addr={}", args.baseline.name(), listener.local_addr()?));
    args.baseline.serve(&settings, listener, stop).await?;
    if let Some(bucket) = bucket {
        note(&format!("{}: {:?}", args.baseline.name(), bucket.puts()));
    }
    Ok(true)
}

/// What a design without bounds takes is bounded by the operating system, or it would take the machine's all: the
/// allocation beyond the limit ends the process.
fn limit_memory(bytes: u64) -> anyhow::Result<()> {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Data, limit).context("limiting this process's memory")
}

/// Carries `work` out; Ctrl-C ends its load and the report is still made. A second one gives up, and what was started
/// is killed as it is dropped.
async fn interruptible<T>(control: &Control, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let twice = async {
        interrupt.recv().await;
        control.end.cancel();
        interrupt.recv().await;
    };
    tokio::select! {
        done = work => done,
        () = twice => bail!("interrupted"),
    }
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

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn show(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "progress and errors, beside the report")]
fn note(text: &str) {
    eprintln!("{text}");
}
