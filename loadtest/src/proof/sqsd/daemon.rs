//! The daemon of a worker environment of AWS Elastic Beanstalk as its documentation describes it: it posts each message to one
//! address, deletes it after a 200, and makes it visible again after any other outcome.
//!
//! Source: AWS Elastic Beanstalk Developer Guide, "Elastic Beanstalk worker environments".

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::queue::{Queue, Received};
use crate::batch::{Batch, Encoding, Form};
use crate::client::{Http1, Target};
use crate::payload::{Number, Payloads};

/// Payloads of a message.
pub(super) const PAYLOADS_PER_MESSAGE: usize = 3;
/// How often a connection without a message asks for one.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Wrong responses that are listed.
const LISTED: usize = 5;

/// The settings of the daemon, by their names in `aws:elasticbeanstalk:sqsd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the documentation of Elastic Beanstalk says it")]
pub struct DaemonSettings {
    pub http_connections: u32,
    pub connect_timeout: Duration,
    pub inactivity_timeout: Duration,
    pub visibility_timeout: Duration,
    pub error_visibility_timeout: Duration,
    pub max_retries: u32,
}

impl Default for DaemonSettings {
    /// The documented defaults.
    fn default() -> Self {
        Self {
            http_connections: 50,
            connect_timeout: Duration::from_secs(5),
            inactivity_timeout: Duration::from_secs(299),
            visibility_timeout: Duration::from_secs(300),
            error_visibility_timeout: Duration::from_secs(2),
            max_retries: 10,
        }
    }
}

/// What the server told the daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Told {
    pub statuses: BTreeMap<u16, u64>,
    /// Without a response: not connected, or the connection closed, or a timeout expired.
    pub unanswered: u64,
    /// The longest time to a response, in seconds.
    pub longest: f64,
    /// Responses with 200 that acknowledge something else.
    pub wrong: Vec<String>,
}

impl Told {
    pub(super) fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.unanswered += other.unanswered;
        self.longest = self.longest.max(other.longest);
        let more = LISTED.saturating_sub(self.wrong.len());
        self.wrong.extend(other.wrong.into_iter().take(more));
    }
}

/// One connection of the daemon.
pub(super) struct Connection {
    pub(super) queue: Arc<Queue>,
    pub(super) settings: DaemonSettings,
    pub(super) addr: SocketAddr,
    pub(super) run: u32,
    pub(super) payload_size: usize,
    pub(super) end: CancellationToken,
}

/// The response to an accepted batch.
#[derive(Deserialize)]
struct Accepted<'a> {
    request_id: &'a str,
    payloads: usize,
    ack: &'a str,
}

/// The id of a message: that of the run and its number, in the form of a UUID.
pub(super) fn message_id(run: u32, message: usize) -> String {
    format!("{run:08x}-0000-4000-8000-{message:012x}")
}

/// The message that a payload is of.
pub(super) fn message_of(number: Number) -> usize {
    usize::try_from(number.sequence).unwrap_or(usize::MAX) / PAYLOADS_PER_MESSAGE
}

impl Connection {
    /// Posts messages until the end.
    /// Errors: a body cannot be written, which does not happen.
    pub(super) async fn run(self) -> anyhow::Result<Told> {
        let target = Target::from(self.addr);
        let mut batch =
            Batch::new(Payloads::new(self.run, self.payload_size), Form::Envelope, Encoding::Identity, "t")?;
        let (mut told, mut connection) = (Told::default(), None);
        let mut body = Vec::new();
        while !self.end.is_cancelled() {
            let Some(received) = self.queue.receive() else {
                let _ = tokio::time::timeout(POLL_INTERVAL, self.end.cancelled()).await;
                continue;
            };
            body.clear();
            let first = Number { client: 0, sequence: (received.message * PAYLOADS_PER_MESSAGE) as u64 };
            batch.write(first, PAYLOADS_PER_MESSAGE, &mut body)?;
            let request = self.request(&received, &body)?;
            let began = Instant::now();
            let status = self.post(&target, &mut connection, &request).await;
            told.longest = told.longest.max(began.elapsed().as_secs_f64());
            match status {
                Some(200) => {
                    *told.statuses.entry(200).or_default() += 1;
                    let response = connection.as_ref().map(Http1::body).unwrap_or_default();
                    if told.wrong.len() < LISTED && !self.acknowledges(&received, response) {
                        told.wrong.push(String::from_utf8_lossy(response).trim().to_owned());
                    }
                    self.queue.delete(&received);
                }
                other => {
                    match other {
                        Some(status) => *told.statuses.entry(status).or_default() += 1,
                        None => told.unanswered += 1,
                    }
                    self.queue.change_visibility(&received, self.settings.error_visibility_timeout);
                }
            }
        }
        Ok(told)
    }

    fn request(&self, received: &Received, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let first_received = DateTime::from(received.first_received).fmt(DateTimeFormat::DateTime)?;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: aws-sqsd/1.1\r\nContent-Type: application/json\r\n\
             X-Aws-Sqsd-Msgid: {}\r\nX-Aws-Sqsd-Queue: telemetry\r\nX-Aws-Sqsd-First-Received-At: {first_received}\r\n\
             X-Aws-Sqsd-Receive-Count: {}\r\nX-Aws-Sqsd-Attr-Site: one\r\nContent-Length: {}\r\n\r\n",
            message_id(self.run, received.message),
            received.receives,
            body.len()
        );
        Ok([head.as_bytes(), body].concat())
    }

    /// The status of the response; `None` without one.
    async fn post(&self, target: &Target, connection: &mut Option<Http1>, request: &[u8]) -> Option<u16> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => self.connect(target).await?,
        };
        if !open.is_open_to(self.addr).await {
            open = self.connect(target).await?;
        }
        let response =
            tokio::time::timeout(self.settings.inactivity_timeout, open.exchange(request)).await.ok()?.ok()?;
        if response.keep_alive {
            *connection = Some(open);
        }
        Some(response.status)
    }

    async fn connect(&self, target: &Target) -> Option<Http1> {
        tokio::time::timeout(self.settings.connect_timeout, Http1::open(target, self.addr)).await.ok()?.ok()
    }

    /// Whether this is the response to the message, committed at least.
    fn acknowledges(&self, received: &Received, response: &[u8]) -> bool {
        serde_json::from_slice::<Accepted<'_>>(response).is_ok_and(|accepted| {
            accepted.request_id == message_id(self.run, received.message)
                && accepted.payloads == PAYLOADS_PER_MESSAGE
                && matches!(accepted.ack, "disk" | "stored")
        })
    }
}
