//! `millpond drain`.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::args::Drain;
use super::client::{Client, JSON_MAX_BYTES};
use super::environment::Environment;
use super::text::{count, duration, plural};
use super::{CliError, block_on, print, tell};

const TIMEOUT: Duration = Duration::from_secs(10);
/// The snapshot of the server is renewed once a second.
const INTERVAL: Duration = Duration::from_millis(500);

/// The part of `GET /v1/status` that a drain needs.
#[derive(Debug, Deserialize)]
struct Progress {
    state: String,
    ledger: Ledger,
}

#[derive(Debug, Deserialize)]
struct Ledger {
    waiting: Waiting,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    jobs: u64,
}

pub(super) fn run(arguments: &Drain, environment: &Environment) -> Result<(), CliError> {
    let client = Client::admin(&arguments.admin, environment)?;
    block_on(async {
        client.call(Method::POST, "/v1/drain", TIMEOUT, JSON_MAX_BYTES).await?;
        if !arguments.wait {
            return print("The server is draining: it rejects batches and stores what it has. It keeps running.\n");
        }
        wait(&client, arguments.timeout).await
    })
}

async fn wait(client: &Client, longest: Duration) -> Result<(), CliError> {
    let deadline = Instant::now() + longest;
    let mut told = None;
    loop {
        let body = client.call(Method::GET, "/v1/status", TIMEOUT, JSON_MAX_BYTES).await?;
        let progress: Progress = serde_json::from_slice(&body)
            .map_err(|error| CliError::Failed(format!("{}: unexpected status: {error}", client.url())))?;
        let jobs = progress.ledger.waiting.jobs;
        if progress.state == "drained" {
            return print("Drained: everything that was accepted is stored. Stop the server with SIGTERM.\n");
        }
        if told.replace(jobs) != Some(jobs) {
            tell(&format!("draining: {} not stored yet", plural(jobs, "job")));
        }
        if Instant::now() + INTERVAL > deadline {
            return Err(CliError::Failed(format!(
                "not drained within {}: {} jobs are not stored yet. The server goes on; millpond top shows why",
                duration(longest),
                count(jobs),
            )));
        }
        sleep(INTERVAL).await;
    }
}
