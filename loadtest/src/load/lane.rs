//! One thread of the generator: its connections take turns on one runtime, and share nothing with those of other
//! threads but the tally that is looked at once a second.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::pacer::Pacer;
use super::tally::Tally;
use super::{Control, Plan};
use crate::batch::Batch;
use crate::ledger::{Outcome, Sent};
use crate::payload::{Number, Payloads};

/// Space before the body for the request's head, which can only be written once the body's length is known.
const HEADROOM: usize = 512;

/// How long a connection that could not be made waits before it is tried again.
const RECONNECT: Duration = Duration::from_millis(10);

/// A thread's share of a load.
pub(super) struct Lane {
    pub(super) plan: Arc<Plan>,
    /// The endpoints, one to a connection.
    pub(super) endpoints: Vec<u32>,
    pub(super) rate: f64,
    /// Requests it may send; `None` is no limit.
    pub(super) requests: Option<u64>,
    pub(super) control: Control,
    pub(super) tally: Arc<Mutex<Tally>>,
}

struct Shared {
    plan: Arc<Plan>,
    control: Control,
    pacer: Pacer,
    left: Cell<u64>,
    tally: Arc<Mutex<Tally>>,
}

impl Lane {
    /// Sends until the end of the load and returns what each endpoint sent.
    pub(super) fn run(self) -> anyhow::Result<Vec<(u32, Sent)>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("making a runtime")?;
        LocalSet::new().block_on(&runtime, self.send())
    }

    async fn send(self) -> anyhow::Result<Vec<(u32, Sent)>> {
        let shared = Rc::new(Shared {
            plan: self.plan,
            control: self.control,
            pacer: Pacer::new(self.rate),
            left: Cell::new(self.requests.unwrap_or(u64::MAX)),
            tally: self.tally,
        });
        let mut senders = JoinSet::new();
        for endpoint in self.endpoints {
            let shared = Rc::clone(&shared);
            senders.spawn_local(async move { Sender::new(shared, endpoint)?.run().await });
        }
        let end = shared.control.end.clone();
        let pacing = shared.pacer.run();
        tokio::pin!(pacing);
        let mut done = Vec::new();
        loop {
            tokio::select! {
                () = end.cancelled(), if !shared.pacer.is_closed() => {
                    let unsent = shared.pacer.close();
                    shared.tally().unsent += unsent;
                }
                wrong = &mut pacing, if !shared.pacer.is_closed() => wrong?,
                sender = senders.join_next() => match sender {
                    Some(sent) => done.push(sent.context("a connection's task failed")??),
                    None => return Ok(done),
                }
            }
        }
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another request may be sent. With the last one the load is over, for those who wait for their turn too.
    fn take_request(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left <= 1 {
            self.pacer.close();
        }
        left > 0
    }
}

struct Sender {
    shared: Rc<Shared>,
    endpoint: u32,
    sent: Sent,
    batch: Batch,
    head: Vec<u8>,
    buffer: Vec<u8>,
    connection: Option<Connection>,
}

impl Sender {
    fn new(shared: Rc<Shared>, endpoint: u32) -> anyhow::Result<Self> {
        let plan = &shared.plan;
        let payloads = Payloads::new(plan.run, plan.payload_size);
        let batch = Batch::new(payloads, plan.form, plan.encoding, &plan.token);
        let head = plan.head();
        Ok(Self { shared, endpoint, sent: Sent::default(), batch, head, buffer: Vec::new(), connection: None })
    }

    async fn run(mut self) -> anyhow::Result<(u32, Sent)> {
        let shared = Rc::clone(&self.shared);
        loop {
            // Written before it is due: making the payloads is no latency of the server's.
            let start = self.prepare()?;
            let Some(due) = shared.pacer.next().await else { break };
            if !shared.take_request() || !self.connect(&shared.control).await {
                break;
            }
            self.exchange(start, due).await;
        }
        Ok((self.endpoint, self.sent))
    }

    /// Writes the next request into the buffer; it begins where this says.
    fn prepare(&mut self) -> anyhow::Result<usize> {
        self.buffer.clear();
        self.buffer.resize(HEADROOM, 0);
        let first = Number { endpoint: self.endpoint, sequence: self.sent.next() };
        self.batch.write(first, self.shared.plan.per_request, &mut self.buffer)?;
        let length = (self.buffer.len() - HEADROOM).to_string();
        let head = &self.head;
        let start = HEADROOM
            .checked_sub(head.len() + length.len() + 4)
            .context("the request's head is too long: shorten the URL or the token")?;
        let (room, _) = self.buffer.split_at_mut(HEADROOM);
        for (at, byte) in (start..).zip(head.iter().chain(length.as_bytes()).chain(b"\r\n\r\n")) {
            room[at] = *byte;
        }
        Ok(start)
    }

    /// Sees to it that there is a connection; false when the load is over or the server has been sent away.
    async fn connect(&mut self, control: &Control) -> bool {
        loop {
            let Some(target) = control.target(self.shared.plan.target).await else { return false };
            // One to where the load goes no longer is given up between two requests, and one that the server has closed
            // meanwhile, as any client would see: that is no request without an answer.
            if self.connection.as_ref().is_some_and(|connection| connection.target() == target && connection.is_open())
            {
                return true;
            }
            self.connection = None;
            let open = tokio::time::timeout(self.shared.plan.timeout, Connection::open(target));
            match open.await {
                Ok(Ok(connection)) => {
                    self.shared.tally().connects += 1;
                    self.connection = Some(connection);
                }
                Ok(Err(_)) | Err(_) => {
                    self.shared.tally().connect_errors += 1;
                    if control.server_leaving.is_cancelled() || stopped_after(&control.end, RECONNECT).await {
                        return false;
                    }
                }
            }
        }
    }

    /// Sends the request and books what came of it.
    async fn exchange(&mut self, start: usize, due: Instant) {
        let Some(mut connection) = self.connection.take() else { return };
        let plan = &self.shared.plan;
        let late = due.elapsed();
        let answer = tokio::time::timeout(plan.timeout, connection.exchange(&self.buffer[start..])).await;
        let mut tally = self.shared.tally();
        tally.late.record(late);
        let outcome = match answer {
            Ok(Ok(answer)) => {
                tally.answer(answer.status, due.elapsed());
                let outcome = Outcome::of_status(answer.status);
                if let (Outcome::Accepted, Some(receipts)) = (outcome, &self.shared.control.receipts) {
                    receipts.offer(connection.body());
                }
                self.connection = answer.keep_alive.then_some(connection);
                outcome
            }
            Ok(Err(_)) | Err(_) => {
                tally.unanswered += 1;
                Outcome::Unanswered
            }
        };
        self.sent.book(plan.per_request, outcome);
    }
}

async fn stopped_after(end: &CancellationToken, time: Duration) -> bool {
    tokio::time::timeout(time, end.cancelled()).await.is_ok()
}
