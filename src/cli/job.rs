//! `millpond job`: asks the server, then the local spool.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::args::Job;
use super::client::{Client, JSON_MAX_BYTES, Listener};
use super::environment::Environment;
use super::spool::Place;
use super::text::{printable, printable_json};
use super::{CliError, block_on, print, tell};
use crate::segment::JobId;
use crate::spool::OfflineError;

/// In addition to the wait that the server is asked for.
const TIMEOUT: Duration = Duration::from_secs(15);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The state of a job, as the server reports it.
#[derive(Debug, Serialize, Deserialize)]
struct JobState {
    job: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub(super) fn run(arguments: &Job, environment: &Environment) -> Result<(), CliError> {
    let is_tls = environment.get("TLS_CERT").is_some();
    let url = arguments.server.clone().unwrap_or_else(|| environment.url("LISTEN_ADDR", is_tls));
    let token = environment.tenant_token(arguments.token_file.as_deref())?;
    let client = Client::new(&url, token.as_ref(), Listener::Public)?;
    let reason = match block_on(ask(&client, arguments)) {
        Ok(Some(state)) => return show(&state, arguments.json),
        Ok(None) => format!("{} does not know the job", client.url()),
        Err(error) => error.to_string(),
    };
    tell(&format!("millpond: {reason}"));
    let place = Place::open(&arguments.spool, environment).map_err(|error| CliError::Failed(error.to_string()))?;
    let state = in_spool(&place, arguments.job)?;
    show(&state, arguments.json)
}

/// None if the server does not know the job.
async fn ask(client: &Client, arguments: &Job) -> Result<Option<JobState>, CliError> {
    let wait = arguments.wait.min(WAIT_MAX);
    let path = format!("/v1/jobs/{}?wait={}", arguments.job, wait.as_secs_f64());
    let response = client.send(Method::GET, &path, wait + TIMEOUT, JSON_MAX_BYTES).await?;
    match response.status {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => {
            let state = serde_json::from_slice(&response.body);
            state.map(Some).map_err(|error| CliError::Failed(format!("{}: unexpected response: {error}", client.url())))
        }
        _ => Err(client.error(&path, &response).into()),
    }
}

/// The state of a job whose segment is in the spool of this machine.
fn in_spool(place: &Place, job: JobId) -> Result<JobState, CliError> {
    let root = place.root.display();
    let found = place.spool.find(job.segment).map_err(|error| place.failed(&error))?;
    let Some(found) = found else {
        return Err(CliError::Failed(format!("the spool {root} does not hold the job's segment either")));
    };
    let state = |state: &str, detail: String| JobState {
        job: job.to_string(),
        state: state.to_owned(),
        object: None,
        detail: Some(detail),
    };
    let folder = &found.folder;
    let content = match place.spool.read(&found) {
        Ok(content) => content,
        Err(error @ OfflineError::NotReadable { .. }) => {
            return Ok(state("spooled", format!("its segment is in the spool; {error}")));
        }
        Err(error) => return Err(place.failed(&error)),
    };
    let salvage = &content.salvage;
    let is_in = |first: u32, jobs: u32| (first..first.saturating_add(jobs)).contains(&job.index);
    let is_readable = content.frames.iter().any(|frame| is_in(frame.counts.first_job, frame.counts.jobs));
    match (folder.as_str(), is_readable) {
        ("dead", true) => {
            let detail = "its segment is under dead/: what was readable when it was moved there is stored, and this job is readable now";
            Ok(state("unknown", detail.to_owned()))
        }
        (_, true) => {
            Ok(state("spooled", format!("its segment is in the folder {folder}, which the next process adopts")))
        }
        (_, false) if salvage.lost_indexes().iter().any(|range| range.contains(&job.index)) => {
            Ok(state("dead", format!("its segment in the folder {folder} is damaged, and this job cannot be read")))
        }
        (_, false) => Err(CliError::Failed(format!("its segment in the folder {folder} has no job {}", job.index))),
    }
}

fn show(state: &JobState, json: bool) -> Result<(), CliError> {
    if json {
        let text = serde_json::to_string(state).map_err(|error| CliError::Failed(error.to_string()))?;
        return print(printable_json(&text) + "\n");
    }
    let mut text = format!("job     {}\nstate   {}\n", printable(&state.job), printable(&state.state));
    for (name, value) in [("object", &state.object), ("detail", &state.detail)] {
        if let Some(value) = value {
            text += &format!("{name}  {}\n", printable(value));
        }
    }
    print(text)
}
