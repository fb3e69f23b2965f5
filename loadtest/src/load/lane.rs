//! One thread of the generator: its connections take turns on one runtime, and share nothing with those of other
//! threads but the tally that is looked at once a second. A connection without a request that is due holds no buffer.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::pacer::Pacer;
use super::stock::{Request, Stock};
use super::tally::Tally;
use super::{Control, Opening, Plan, Whither};
use crate::ledger::{Outcome, Sent};

/// How long a connection that could not be made waits before it is tried again.
const RECONNECT: Duration = Duration::from_millis(10);

/// How many connections are being made at once before the load begins: well within a listener's backlog.
const OPENING: usize = 32;

/// How many requests are made for one that was taken, so that the stock recovers from a burst.
const REFILL: usize = 2;

/// Buffers for answers that are kept for the next ones.
const SPARE_ANSWERS: usize = 64;

/// A thread's share of a load.
pub(super) struct Lane {
    pub(super) plan: Arc<Plan>,
    pub(super) connections: usize,
    pub(super) stock: Stock,
    pub(super) pacer: Pacer,
    /// Requests it may send; `None` is no limit.
    pub(super) requests: Option<u64>,
    pub(super) control: Control,
    /// All threads begin when the connections of all are made.
    pub(super) opening: Opening,
    pub(super) tally: Arc<Mutex<Tally>>,
}

struct Shared {
    plan: Arc<Plan>,
    control: Control,
    pacer: Pacer,
    stock: RefCell<Stock>,
    answers: RefCell<Vec<Vec<u8>>>,
    left: Cell<u64>,
    /// What has come together of the share of new connections; at 1 there is one to be made.
    fresh: Cell<f64>,
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
            pacer: self.pacer,
            stock: RefCell::new(self.stock),
            answers: RefCell::default(),
            left: Cell::new(self.requests.unwrap_or(u64::MAX)),
            fresh: Cell::new(0.0),
            tally: self.tally,
        });
        let end = shared.control.end.clone();
        let senders = tokio::select! {
            senders = open(&shared, self.connections) => senders?,
            () = end.cancelled() => Vec::new(),
        };
        let start = self.opening.start(&end).await;
        let mut sending = JoinSet::new();
        for sender in senders {
            sending.spawn_local(sender.run());
        }
        let pacing = shared.pacer.run(start);
        tokio::pin!(pacing);
        loop {
            tokio::select! {
                () = end.cancelled(), if !shared.pacer.is_closed() => {
                    let unsent = shared.pacer.close_at_end(start);
                    shared.tally().unsent += unsent;
                }
                wrong = &mut pacing, if !shared.pacer.is_closed() => wrong?,
                sender = sending.join_next() => match sender {
                    Some(done) => done.context("a connection's task failed")??,
                    None => break,
                }
            }
        }
        Ok(shared.stock.borrow_mut().sent())
    }
}

/// Makes the connections, a few at a time; one that fails is tried again when there is a request for it.
async fn open(shared: &Rc<Shared>, count: usize) -> anyhow::Result<Vec<Sender>> {
    let turns = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let (shared, turns) = (Rc::clone(shared), Arc::clone(&turns));
        opening.spawn_local(async move {
            let _turn = turns.acquire_owned().await;
            let mut sender = Sender { shared, connection: None };
            let target = match *sender.shared.control.whither.borrow() {
                Whither::Planned => Some(sender.shared.plan.target),
                Whither::To(target) => Some(target),
                Whither::Nowhere => None,
            };
            if let Some(target) = target {
                sender.open(target).await;
            }
            sender
        });
    }
    let mut senders = Vec::with_capacity(count);
    while let Some(sender) = opening.join_next().await {
        senders.push(sender.context("making a connection")?);
    }
    Ok(senders)
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

    /// Whether the next request is one for a new connection; they are spread evenly.
    fn takes_new_connection(&self) -> bool {
        let fresh = self.fresh.get() + self.plan.new_connections;
        let is_due = fresh >= 1.0;
        self.fresh.set(if is_due { fresh - 1.0 } else { fresh });
        is_due
    }
}

struct Sender {
    shared: Rc<Shared>,
    connection: Option<Connection>,
}

impl Sender {
    async fn run(mut self) -> anyhow::Result<()> {
        let shared = Rc::clone(&self.shared);
        while let Some(due) = shared.pacer.next().await {
            if !shared.take_request() {
                break;
            }
            if shared.takes_new_connection() {
                self.connection = None;
            }
            if !self.connect(&shared.control).await {
                shared.tally().unsent += 1;
                break;
            }
            let request = shared.stock.borrow_mut().take()?;
            self.exchange(request, due).await;
            shared.stock.borrow_mut().refill(REFILL)?;
        }
        Ok(())
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
            let is_open = self.open(target).await;
            if !is_open && (control.server_leaving.is_cancelled() || stopped_after(&control.end, RECONNECT).await) {
                return false;
            }
        }
    }

    /// Makes a connection, or books that this was not possible.
    async fn open(&mut self, target: SocketAddr) -> bool {
        let open = tokio::time::timeout(self.shared.plan.timeout, Connection::open(target)).await;
        self.connection = open.ok().and_then(Result::ok);
        let is_open = self.connection.is_some();
        let mut tally = self.shared.tally();
        tally.connects += u64::from(is_open);
        tally.connect_errors += u64::from(!is_open);
        is_open
    }

    /// Sends the request and books what came of it.
    async fn exchange(&mut self, request: Request, due: Instant) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.lend(self.shared.answers.borrow_mut().pop().unwrap_or_default());
        let late = due.elapsed();
        let answer = tokio::time::timeout(self.shared.plan.timeout, connection.exchange(request.bytes())).await;
        let latency = due.elapsed();
        let outcome = match &answer {
            Ok(Ok(answer)) => Outcome::of_status(answer.status),
            Ok(Err(_)) | Err(_) => Outcome::Unanswered,
        };
        if let (Outcome::Accepted, Some(receipts)) = (outcome, &self.shared.control.receipts) {
            receipts.offer(connection.body());
        }
        {
            let mut tally = self.shared.tally();
            tally.late.record(late);
            match &answer {
                Ok(Ok(answer)) => tally.answer(answer.status, latency),
                Ok(Err(_)) | Err(_) => tally.unanswered += 1,
            }
        }
        let buffer = connection.lend(Vec::new());
        let mut answers = self.shared.answers.borrow_mut();
        if answers.len() < SPARE_ANSWERS {
            answers.push(buffer);
        }
        if let Ok(Ok(answer)) = answer {
            self.connection = answer.keep_alive.then_some(connection);
        }
        self.shared.stock.borrow_mut().book(request, outcome);
    }
}

async fn stopped_after(end: &CancellationToken, time: Duration) -> bool {
    tokio::time::timeout(time, end.cancelled()).await.is_ok()
}
