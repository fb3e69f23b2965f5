//! Where receipts lead to.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::load::{Connection, Plan};

/// How many findings are told one by one.
const TOLD: usize = 5;

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a server said about a sample of receipts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Jobs {
    /// How many were followed up.
    pub asked: u64,
    /// Those whose job is stored, in the object that the receipt named.
    pub stored: u64,
    /// What is wrong with the others, the first few of them.
    pub wrong: Vec<String>,
}

/// What an accepted request is answered.
#[derive(Debug, Deserialize)]
struct Receipt {
    ack: String,
    payloads: usize,
    job: Option<String>,
    object: Option<String>,
}

/// What is answered about a job.
#[derive(Debug, Deserialize)]
struct Fate {
    job: String,
    state: String,
    object: Option<String>,
}

impl Jobs {
    /// Asks a server about the answers that accepted requests got.
    pub(super) async fn ask(server: SocketAddr, answers: &[Vec<u8>], plan: &Plan, limit: Duration) -> Self {
        let mut jobs = Self::default();
        let all = async {
            for answer in answers {
                jobs.asked += 1;
                match follow(server, answer, plan).await {
                    Ok(()) => jobs.stored += 1,
                    Err(wrong) if jobs.wrong.len() < TOLD => {
                        jobs.wrong.push(format!("{wrong:#}: {}", String::from_utf8_lossy(answer).trim()));
                    }
                    Err(_) => {}
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            jobs.wrong.push(format!("no more than {} of {} receipts in {limit:?}", jobs.asked, answers.len()));
        }
        jobs
    }
}

async fn follow(server: SocketAddr, answer: &[u8], plan: &Plan) -> anyhow::Result<()> {
    let receipt: Receipt = serde_json::from_slice(answer).context("no receipt")?;
    ensure!(plan.shape.has(receipt.payloads), "a receipt for another number of payloads");
    if receipt.ack == "memory" {
        return Ok(());
    }
    let job = receipt.job.context("a receipt without a job")?;
    let request = format!(
        "GET /v1/jobs/{job}?wait=5 HTTP/1.1\r\nHost: {server}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        plan.token
    );
    let exchange = async {
        let mut connection = Connection::open(server).await?;
        let answer = connection.exchange(request.as_bytes()).await?;
        std::io::Result::Ok((answer.status, connection.body().to_owned()))
    };
    let (status, body) = tokio::time::timeout(ANSWER_LIMIT, exchange).await.context("asking about a job")??;
    ensure!(status == 200, "a job that is answered with {status}");
    let fate: Fate = serde_json::from_slice(&body).context("a job's state cannot be read")?;
    ensure!(fate.job == job, "asked about {job}, told about {}", fate.job);
    ensure!(fate.state == "stored", "a job that is {} after the spool was drained", fate.state);
    ensure!(fate.object == receipt.object, "a job that is in {:?} and not where its receipt says", fate.object);
    Ok(())
}
