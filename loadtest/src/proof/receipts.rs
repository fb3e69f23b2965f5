//! Whether receipts lead to stored jobs.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::client::{self, Target};
use crate::load::Plan;

/// Findings that are listed.
const LISTED: usize = 5;

/// The timeout of one lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of looking up a sample of receipts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Jobs {
    /// Receipts that were looked up.
    pub asked: u64,
    /// Those whose job is stored, in the object that the receipt names.
    pub stored: u64,
    /// What is wrong with the others, the first few of them.
    pub wrong: Vec<String>,
}

/// The response to an accepted request.
#[derive(Debug, Deserialize)]
struct Receipt {
    ack: String,
    payloads: usize,
    job: Option<String>,
    object: Option<String>,
}

/// The response about a job.
#[derive(Debug, Deserialize)]
struct Job {
    job: String,
    state: String,
    object: Option<String>,
}

impl Jobs {
    /// Looks up the receipts in these responses.
    pub(super) async fn look_up(server: &Target, responses: &[Vec<u8>], plan: &Plan, limit: Duration) -> Self {
        let mut jobs = Self::default();
        let all = async {
            for response in responses {
                jobs.asked += 1;
                match look_up(server, response, plan).await {
                    Ok(()) => jobs.stored += 1,
                    Err(wrong) if jobs.wrong.len() < LISTED => {
                        jobs.wrong.push(format!("{wrong:#}: {}", String::from_utf8_lossy(response).trim()));
                    }
                    Err(_) => {}
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            jobs.wrong.push(format!("only {} of {} receipts were looked up in {limit:?}", jobs.asked, responses.len()));
        }
        jobs
    }
}

async fn look_up(server: &Target, response: &[u8], plan: &Plan) -> anyhow::Result<()> {
    let receipt: Receipt = serde_json::from_slice(response).context("not a receipt")?;
    ensure!(plan.shape.has(receipt.payloads), "a receipt for another number of payloads");
    if receipt.ack == "memory" {
        return Ok(());
    }
    let id = receipt.job.context("a receipt without a job")?;
    let path = format!("/v1/jobs/{id}?wait=5");
    let get = tokio::time::timeout(LOOKUP_TIMEOUT, client::get(server, &path, Some(&plan.token)));
    let (status, body) = get.await.context("looking up a job")??;
    ensure!(status == 200, "status {status} for a job");
    let job: Job = serde_json::from_str(&body).context("the response about a job cannot be read")?;
    ensure!(job.job == id, "the response is about job {}", job.job);
    ensure!(job.state == "stored", "the job is {} after the spool was drained", job.state);
    ensure!(job.object == receipt.object, "the job is in {:?}, and its receipt names another object", job.object);
    Ok(())
}
