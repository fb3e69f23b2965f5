//! One thread of the generator: its connections take turns on one runtime, and share nothing with those of other
//! threads but the tally, which is read once a second. A connection without a request that is due holds no buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::control::Start;
use super::pacer::Pacer;
use super::requests::{Request, Requests};
use super::{Control, Plan, Tally};
use crate::client::{Http1, Http2, Response};
use crate::ledger::{Outcome, Sent};

/// The wait before a connection that could not be made is tried again.
const RECONNECT: Duration = Duration::from_millis(10);

/// Connections made at once before the load begins: well within a listener's backlog.
const CONNECTING: usize = 32;

/// Requests that are made for one that was taken, so that the stock recovers from a burst.
const REFILL: usize = 2;

/// How often a request is sent again that a server says it did not process.
const MAX_SENT_AGAIN: usize = 20;

/// Buffers for responses that are kept for the next ones.
const SPARE_BUFFERS: usize = 64;

/// A thread's share of a load.
pub(super) struct LoadThread {
    pub(super) plan: Arc<Plan>,
    pub(super) connections: usize,
    pub(super) stock: Requests,
    pub(super) pacer: Pacer,
    /// Requests it may send; `None` is no limit.
    pub(super) requests: Option<u64>,
    pub(super) control: Control,
    pub(super) start: Start,
    pub(super) tally: Arc<Mutex<Tally>>,
}

struct Shared {
    plan: Arc<Plan>,
    control: Control,
    pacer: Pacer,
    stock: RefCell<Requests>,
    buffers: RefCell<Vec<Vec<u8>>>,
    left: Cell<u64>,
    /// The share of new connections, summed up over the requests; at 1 a new connection is due.
    fresh: Cell<f64>,
    tally: Arc<Mutex<Tally>>,
}

impl LoadThread {
    /// Sends until the end of the load and returns what each client sent.
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
            buffers: RefCell::default(),
            left: Cell::new(self.requests.unwrap_or(u64::MAX)),
            fresh: Cell::new(0.0),
            tally: self.tally,
        });
        let end = shared.control.end.clone();
        let senders = tokio::select! {
            senders = connect_all(&shared, self.connections) => senders?,
            () = end.cancelled() => Vec::new(),
        };
        let start = self.start.wait(&end).await;
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

/// Makes the connections, a few at a time; one that fails is tried again when there is a request for it. On each HTTP/2
/// connection there are several senders.
async fn connect_all(shared: &Rc<Shared>, count: usize) -> anyhow::Result<Vec<Sender>> {
    let permits = Arc::new(Semaphore::new(CONNECTING));
    let mut connecting = JoinSet::new();
    for _ in 0..count {
        let (shared, permits) = (Rc::clone(shared), Arc::clone(&permits));
        connecting.spawn_local(async move {
            let _permit = permits.acquire_owned().await;
            let mut first = Sender { shared: Rc::clone(&shared), group: Rc::default(), connection: None };
            if let Some(addr) = shared.control.destination(shared.plan.target.addr) {
                first.open(addr).await;
            }
            let group = Rc::clone(&first.group);
            let others = (1..shared.plan.streams).map(|_| Sender {
                shared: Rc::clone(&shared),
                group: Rc::clone(&group),
                connection: None,
            });
            others.chain([first]).collect::<Vec<_>>()
        });
    }
    let mut senders = Vec::new();
    while let Some(some) = connecting.join_next().await {
        senders.extend(some.context("making a connection")?);
    }
    Ok(senders)
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    fn return_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < SPARE_BUFFERS {
            buffers.push(buffer);
        }
    }

    fn offer_receipt(&self, response: &Response, body: &[u8]) {
        if let (Outcome::Accepted, Some(receipts)) = (Outcome::of_status(response.status), &self.control.receipts) {
            receipts.offer(body);
        }
    }

    /// Records the outcome of a request.
    fn record(&self, request: Request, response: &io::Result<Response>, due: Instant, late: Duration) {
        let latency = due.elapsed();
        let outcome = response.as_ref().map_or(Outcome::Unanswered, |response| Outcome::of_status(response.status));
        let mut tally = self.tally();
        tally.late.record(late);
        match response {
            Ok(response) => tally.answer(response.status, latency),
            Err(wrong) => {
                tally.unanswered += 1;
                tally.request_error.get_or_insert_with(|| wrong.to_string());
            }
        }
        drop(tally);
        self.stock.borrow_mut().record(request, outcome);
    }

    /// Whether another request may be sent. With the last one the load is over, also for senders that wait.
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

/// Sends one request after the other.
struct Sender {
    shared: Rc<Shared>,
    /// The HTTP/2 connection that several senders share; locked while it is made.
    group: Rc<tokio::sync::Mutex<Option<Http2>>>,
    connection: Option<Connection>,
}

enum Connection {
    Http1(Http1),
    Http2(Http2),
}

impl Connection {
    async fn is_open_to(&mut self, addr: SocketAddr) -> bool {
        match self {
            Self::Http1(connection) => connection.is_open_to(addr).await,
            Self::Http2(connection) => connection.is_open_to(addr),
        }
    }
}

impl Sender {
    async fn run(mut self) -> anyhow::Result<()> {
        let shared = Rc::clone(&self.shared);
        let pipelined = shared.plan.pipelined;
        while let Some(due) = shared.pacer.next(pipelined).await {
            let count = (0..pipelined).take_while(|_| shared.take_request()).count();
            if count == 0 {
                break;
            }
            if shared.takes_new_connection() {
                self.connection = None;
                *self.group.lock().await = None;
            }
            let mut unprocessed = Vec::new();
            for attempt in 0..=MAX_SENT_AGAIN {
                if !self.connect(&shared.control).await {
                    shared.tally().unsent += if attempt == 0 { count } else { unprocessed.len() } as u64;
                    return Ok(());
                }
                if attempt == 0 {
                    let mut stock = shared.stock.borrow_mut();
                    unprocessed = (0..count).map(|_| stock.take()).collect::<anyhow::Result<_>>()?;
                } else {
                    shared.tally().sent_again += unprocessed.len() as u64;
                }
                unprocessed = self.send(unprocessed, due).await;
                if unprocessed.is_empty() {
                    break;
                }
            }
            for request in unprocessed {
                shared.record(
                    request,
                    &Err(io::Error::other("the server processed it on no connection")),
                    due,
                    due.elapsed(),
                );
            }
            shared.stock.borrow_mut().refill(REFILL * count)?;
        }
        Ok(())
    }

    /// Sends requests and records their outcomes; returns those that the server did not process.
    async fn send(&mut self, mut requests: Vec<Request>, due: Instant) -> Vec<Request> {
        match requests.pop() {
            Some(request) if requests.is_empty() => self.exchange(request, due).await.into_iter().collect(),
            last => self.pipeline(requests.into_iter().chain(last).collect(), due).await,
        }
    }

    /// Makes sure that there is a connection; false when the load is over or the server was told to stop.
    async fn connect(&mut self, control: &Control) -> bool {
        loop {
            let Some(addr) = control.next_destination(self.shared.plan.target.addr).await else { return false };
            // A connection to another address, or one that the server has closed, is replaced between two requests, as
            // by any client: that is no request without a response.
            if let Some(connection) = &mut self.connection
                && connection.is_open_to(addr).await
            {
                return true;
            }
            self.connection = None;
            let is_open = self.open(addr).await;
            if !is_open
                && (control.server_leaving.is_cancelled() || timeout(RECONNECT, control.end.cancelled()).await.is_ok())
            {
                return false;
            }
        }
    }

    /// Makes a connection, or takes that of the group.
    async fn open(&mut self, addr: SocketAddr) -> bool {
        let plan = &self.shared.plan;
        let connection = if plan.streams == 0 {
            self.opened(timeout(plan.timeout, Http1::open(&plan.target, addr)).await).map(Connection::Http1)
        } else {
            let mut group = self.group.lock().await;
            if !group.as_ref().is_some_and(|shared| shared.is_open_to(addr)) {
                *group = self.opened(timeout(plan.timeout, Http2::open(&plan.target, addr)).await);
            }
            group.clone().map(Connection::Http2)
        };
        self.connection = connection;
        self.connection.is_some()
    }

    /// Records whether a connection was made.
    fn opened<T>(&self, opened: Result<io::Result<T>, tokio::time::error::Elapsed>) -> Option<T> {
        let mut tally = self.shared.tally();
        match opened.map_err(io::Error::from).flatten() {
            Ok(connection) => {
                tally.connects += 1;
                Some(connection)
            }
            Err(wrong) => {
                tally.connect_errors += 1;
                tally.connect_error.get_or_insert_with(|| wrong.to_string());
                None
            }
        }
    }

    /// Sends the request and records its outcome; returns it if the server did not process it.
    async fn exchange(&mut self, request: Request, due: Instant) -> Option<Request> {
        let shared = Rc::clone(&self.shared);
        let Some(connection) = &mut self.connection else { return Some(request) };
        let late = due.elapsed();
        let response = match connection {
            Connection::Http1(connection) => {
                connection.swap_buffer(shared.take_buffer());
                timeout(shared.plan.timeout, connection.exchange(request.http1())).await.map(|done| done.map(Some))
            }
            Connection::Http2(connection) => {
                let request = shared.stock.borrow().http2(&request);
                timeout(shared.plan.timeout, connection.exchange(request)).await
            }
        };
        let response: io::Result<Option<Response>> = response.map_err(io::Error::from).flatten();
        let Some(response) = response.transpose() else {
            self.connection = None;
            return Some(request);
        };
        if let Ok(response) = &response {
            let body = match connection {
                Connection::Http1(connection) => connection.body(),
                Connection::Http2(connection) => connection.body(),
            };
            shared.offer_receipt(response, body);
        }
        if let Connection::Http1(connection) = connection {
            shared.return_buffer(connection.swap_buffer(Vec::new()));
        }
        if !response.as_ref().is_ok_and(|response| response.keep_alive) {
            self.connection = None;
        }
        shared.record(request, &response, due, late);
        None
    }

    /// Sends the requests at once, and records the outcomes; returns those that the server did not process.
    async fn pipeline(&mut self, requests: Vec<Request>, due: Instant) -> Vec<Request> {
        let shared = Rc::clone(&self.shared);
        let Some(Connection::Http1(connection)) = &mut self.connection else { return requests };
        let bytes = requests.iter().map(Request::http1).collect::<Vec<_>>().concat();
        let count = requests.len();
        let mut left = requests.into_iter();
        let late = due.elapsed();
        connection.swap_buffer(shared.take_buffer());
        let mut keep_alive = false;
        let exchanging = connection.pipeline(&bytes, count, |response, body| {
            keep_alive = response.keep_alive;
            shared.offer_receipt(&response, body);
            if let Some(request) = left.next() {
                shared.record(request, &Ok(response), due, late);
            }
        });
        let done = timeout(shared.plan.timeout, exchanging).await.map_err(io::Error::from).flatten();
        shared.return_buffer(connection.swap_buffer(Vec::new()));
        if done.is_err() || !keep_alive {
            self.connection = None;
        }
        let Err(wrong) = done else { return left.collect() };
        // Without a response that closes the connection, the server may have processed all of them.
        for request in left {
            shared.record(request, &Err(io::Error::new(wrong.kind(), wrong.to_string())), due, late);
        }
        Vec::new()
    }
}
