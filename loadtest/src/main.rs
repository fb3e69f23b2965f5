//! The command line of loadtest. It exits with 0 when all is well, with 1 when a promise was broken, and with 2 when
//! it could not find out.

mod cli;
mod compare;
mod prove;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use loadtest::floor;
use loadtest::load::{Control, Progress};
use loadtest::s3::S3Server;
use loadtest::units::show_micros;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::cli::{Cli, Command, FloorArgs, RunArgs, S3Args};

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
        Command::Floor(args) => serve_floor(&args).await,
        Command::Prove(args) => Box::pin(prove::run(&args)).await,
        Command::Compare(args) => Box::pin(compare::run(&args)).await,
    }
}

async fn run_one(args: &RunArgs) -> anyhow::Result<bool> {
    let trial = args.trial().await?;
    let control = Control::default();
    let report = interruptible(&control, Box::pin(trial.run(control.clone(), show_progress))).await?;
    show(&report.to_string());
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(!report.failed())
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

async fn serve_floor(args: &FloorArgs) -> anyhow::Result<bool> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("binding {}", args.listen))?;
    let stop = stop_signal()?;
    note(&format!("floor: listening addr={}", listener.local_addr()?));
    floor::serve(listener, stop).await?;
    Ok(true)
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

fn show_progress(progress: &Progress<'_>) {
    let recent = progress.recent;
    let rate = recent.answered() as f64 / progress.span.as_secs_f64();
    note(&format!(
        "{:>5.0} s {rate:>9.0}/s   accepted {:>8}   refused {:>7}   unanswered {:>5}   p99 {}",
        progress.elapsed.as_secs_f64(),
        recent.accepted.count(),
        recent.refused.count(),
        recent.unanswered + recent.connect_errors,
        show_micros(recent.accepted.quantile(0.99)),
    ));
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn show(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "progress and errors, beside the report")]
fn note(text: &str) {
    eprintln!("{text}");
}
