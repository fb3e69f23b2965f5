//! The load generator: every payload is sent once, and every answer is booked.

mod connection;
mod curve;
pub(crate) mod files;
mod lane;
mod pacer;
mod rate;
mod receipts;
mod shape;
mod stock;
mod tally;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::batch::{Encoding, Form};
use crate::ledger::{Ledger, Sent};
use crate::payload;

pub(crate) use self::connection::Connection;
use self::curve::Curve;
use self::lane::Lane;
use self::pacer::Pacer;
pub use self::rate::{Rate, Spike};
pub use self::receipts::Receipts;
pub use self::shape::Shape;
use self::stock::Stock;
pub use self::tally::{Latencies, Quantiles, Tally};

/// The most connections of one load. A loopback address has some 28,000 ports to call from.
pub const MAX_CONNECTIONS: u32 = 10_000;

/// The most endpoints of one load.
pub const MAX_ENDPOINTS: u32 = 1_000_000;

/// What to send, where to, and how fast.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// Path and query of the request.
    pub path: String,
    /// Requests a second over all connections.
    pub rate: Rate,
    /// Devices that are simulated, whose payloads are numbered each for itself; 0 is as many as connections.
    pub endpoints: u32,
    /// Connections kept open, with a request under way at a time on each.
    pub connections: u32,
    /// The share of requests, from 0 to 1, that give their connection up for a new one.
    pub new_connections: f64,
    /// Threads that the connections are spread over.
    pub threads: u32,
    /// How long to send; `None` is until the requests are used up or the load is stopped.
    pub duration: Option<Duration>,
    /// How many requests to send; `None` is no limit.
    pub requests: Option<u64>,
    /// Payloads in a request.
    pub shape: Shape,
    /// Bytes of a payload.
    pub payload_size: usize,
    /// The id of this run, which every payload bears.
    pub run: u32,
    /// How the payloads of a request are put together.
    pub form: Form,
    /// How the body is encoded.
    pub encoding: Encoding,
    /// The token, in the envelope and as a bearer; empty is none.
    pub token: String,
    /// How long to wait for an answer, or a connection.
    pub timeout: Duration,
}

/// What can be done to a load while it runs.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Ends the load: requests under way are still answered, no new ones begin.
    pub end: CancellationToken,
    /// Says that the server has been told to stop, so that a connection it refuses is not tried again.
    pub server_leaving: CancellationToken,
    /// Where requests go from now on. Connections to anywhere else are given up between two requests.
    pub whither: watch::Sender<Whither>,
    /// Takes a sample of what accepted requests were answered.
    pub receipts: Option<Arc<Receipts>>,
}

/// Where the requests of a load go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Whither {
    /// To [`Plan::target`].
    #[default]
    Planned,
    /// Here instead.
    To(SocketAddr),
    /// There is no server at the moment: requests wait until there is one.
    Nowhere,
}

/// What a load has done.
#[derive(Debug)]
pub struct Done {
    /// The outcome of every payload.
    pub ledger: Ledger,
    /// The measures.
    pub tally: Tally,
    /// From the first request due to the last answer.
    pub elapsed: Duration,
}

/// A look at a running load.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Since the load began.
    pub elapsed: Duration,
    /// The measures since the last look.
    pub recent: &'a Tally,
    /// The span of those measures.
    pub span: Duration,
}

/// Where the threads of a load wait for each other when their connections are made, and begin together.
#[derive(Clone)]
struct Opening {
    opened: Arc<Barrier>,
    start: Arc<OnceLock<Instant>>,
}

impl Opening {
    fn of(threads: usize) -> Self {
        Self { opened: Arc::new(Barrier::new(threads)), start: Arc::default() }
    }

    /// Waits for all the others, or for the end of a load that one of them has failed; when the load began, which is the
    /// same instant for all. A thread that gets to run late is thereby late for what was due, and leaves none of it out.
    async fn start(&self, end: &CancellationToken) -> Instant {
        tokio::select! {
            _ = self.opened.wait() => {}
            () = end.cancelled() => {}
        }
        *self.start.get_or_init(Instant::now)
    }
}

impl Control {
    /// Where the next request goes; waits while there is nowhere. `None` when the load is over.
    async fn target(&self, planned: SocketAddr) -> Option<SocketAddr> {
        loop {
            match *self.whither.borrow() {
                Whither::Planned => return Some(planned),
                Whither::To(target) => return Some(target),
                Whither::Nowhere => {}
            }
            let mut whither = self.whither.subscribe();
            tokio::select! {
                // An error is impossible: the sender is this one.
                _ = whither.wait_for(|whither| *whither != Whither::Nowhere) => {}
                () = self.end.cancelled() => return None,
            }
        }
    }
}

impl Plan {
    /// Ten payloads a request over 64 connections, as fast as they are answered, for ever.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            path: "/v1/payloads".to_owned(),
            rate: Rate::UNPACED,
            endpoints: 0,
            connections: 64,
            new_connections: 0.0,
            threads: 1,
            duration: None,
            requests: None,
            shape: Shape::Even(10),
            payload_size: payload::DEFAULT_SIZE,
            run: fastrand::u32(..),
            form: Form::default(),
            encoding: Encoding::default(),
            token: "loadtest".to_owned(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Whether it can be carried out.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> anyhow::Result<()> {
        let bounds = [("connections", self.connections, MAX_CONNECTIONS), ("threads", self.threads, MAX_CONNECTIONS)];
        for (what, count, most) in bounds {
            ensure!((1..=most).contains(&count), "{count} {what}: there may be 1 to {most}");
        }
        ensure!(self.endpoints <= MAX_ENDPOINTS, "{} endpoints: there may be {MAX_ENDPOINTS} at most", self.endpoints);
        ensure!(self.shape != Shape::Even(0), "a request has 1 payload or more");
        ensure!((0.0..=1.0).contains(&self.new_connections), "the share of new connections is from 0 to 1");
        self.rate.check(self.duration).map_err(|wrong| anyhow!(wrong))
    }

    /// The request's head up to its body's length.
    fn head(&self) -> Vec<u8> {
        let mut head = format!("POST {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.target);
        head += &format!("Content-Type: {}\r\n", self.form.content_type());
        if self.encoding == Encoding::Gzip {
            head += "Content-Encoding: gzip\r\n";
        }
        if !self.token.is_empty() {
            head += &format!("Authorization: Bearer {}\r\n", self.token);
        }
        head += "Content-Length: ";
        head.into_bytes()
    }

    fn lanes(self: &Arc<Self>, control: &Control, opening: &Opening, count: u32) -> anyhow::Result<Vec<Lane>> {
        let endpoints = if self.endpoints == 0 { self.connections } else { self.endpoints }.max(count);
        let curve = (!self.rate.is_unpaced()).then(|| Curve::new(self.rate, self.duration));
        let share = |of: u64, at: u32| of / u64::from(count) + u64::from(u64::from(at) < of % u64::from(count));
        (0..count)
            .map(|at| {
                let connections = share(self.connections.into(), at) as usize;
                Ok(Lane {
                    plan: Arc::clone(self),
                    connections,
                    stock: Stock::new(self, (at..endpoints).step_by(count as usize).collect(), connections)?,
                    pacer: Pacer::new(curve.clone(), at.into(), count.into()),
                    requests: self.requests.map(|all| share(all, at)),
                    control: control.clone(),
                    opening: opening.clone(),
                    tally: Arc::new(Mutex::new(Tally::new()?)),
                })
            })
            .collect()
    }
}

/// Carries the plan out, calling `progress` once a second and at the end. First the connections are made, a few at a time;
/// the load begins when all are there, or have failed once.
///
/// # Errors
///
/// The generator itself failed. A server that is away, refuses or breaks connections is no error but a result.
pub async fn run(plan: Plan, control: Control, mut progress: impl FnMut(&Progress<'_>)) -> anyhow::Result<Done> {
    plan.check()?;
    files::allow(plan.connections)?;
    let plan = Arc::new(plan);
    let count = plan.threads.min(plan.connections);
    // The threads, and this one, which looks at the clock.
    let opening = Opening::of(count as usize + 1);
    let lanes = plan.lanes(&control, &opening, count)?;
    let tallies: Vec<_> = lanes.iter().map(|lane| Arc::clone(&lane.tally)).collect();
    let (mut total, mut recent) = (Tally::new()?, Tally::new()?);
    let collect = |into: &mut Tally| {
        for tally in &tallies {
            into.take_from(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
    };

    let mut threads = JoinSet::new();
    // A thread that fails must not leave the others waiting for it.
    let end = control.end.clone();
    for lane in lanes {
        let end = end.clone();
        threads.spawn_blocking(move || lane.run().inspect_err(|_| end.cancel()));
    }
    let start = opening.start(&end).await;
    let deadline = async {
        match plan.duration {
            Some(duration) => tokio::time::sleep_until((start + duration).into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    second.reset();
    let mut looked = start;
    let mut sent = Vec::new();
    loop {
        tokio::select! {
            () = &mut deadline, if !control.end.is_cancelled() => control.end.cancel(),
            _ = second.tick() => {
                collect(&mut recent);
                progress(&Progress { elapsed: start.elapsed(), recent: &recent, span: looked.elapsed() });
                looked = Instant::now();
                total.take_from(&mut recent);
            }
            thread = threads.join_next() => match thread {
                Some(done) => sent.extend(done.context("a thread of the generator failed")??),
                None => break,
            }
        }
    }
    let elapsed = start.elapsed();
    // What came in since the last look is a look of its own, so that the looks add up to the whole.
    collect(&mut recent);
    progress(&Progress { elapsed, recent: &recent, span: looked.elapsed() });
    total.take_from(&mut recent);
    sent.sort_unstable_by_key(|(endpoint, _)| *endpoint);
    let ledger = Ledger::new(sent.into_iter().map(|(_, sent): (u32, Sent)| sent));
    Ok(Done { ledger, tally: total, elapsed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Plan)) -> String {
        let mut plan = Plan::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        plan.check().unwrap();
        change(&mut plan);
        plan.check().unwrap_err().to_string()
    }

    /// A port that refuses connections for as long as the socket lives: it is taken, and does not listen.
    fn closed_port() -> tokio::net::TcpSocket {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        socket
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_due_and_found_no_server_is_booked_as_never_sent() {
        // Twenty come due within a short time and no more after it. However late the threads get to run, these are due at
        // the end, and each is booked.
        let spike = Some("400@0s+0.05s".parse().unwrap());
        let rate = Rate { spike, ..Rate::steady(1e-6) };
        let duration = Some(Duration::from_millis(200));
        let closed = closed_port();
        let plan = Plan { rate, duration, connections: 8, threads: 2, ..Plan::new(closed.local_addr().unwrap()) };
        let done = Box::pin(run(plan, Control::default(), |_| {})).await.unwrap();
        assert_eq!((done.tally.answered(), done.tally.unanswered, done.tally.unsent), (0, 0, 20));
        assert_eq!(done.tally.connects, 0);
        assert!(done.tally.connect_errors >= 8);
    }

    #[test]
    fn a_plan_beyond_its_bounds_is_refused_with_the_bound() {
        assert_eq!(wrong(|plan| plan.connections = 10_001), "10001 connections: there may be 1 to 10000");
        assert_eq!(wrong(|plan| plan.connections = 0), "0 connections: there may be 1 to 10000");
        assert!(wrong(|plan| plan.threads = 0).contains("threads"));
        assert!(wrong(|plan| plan.endpoints = MAX_ENDPOINTS + 1).contains("1000000 at most"));
        assert!(wrong(|plan| plan.shape = Shape::Even(0)).contains("1 payload or more"));
        assert!(wrong(|plan| plan.new_connections = 1.1).contains("from 0 to 1"));
        assert!(wrong(|plan| plan.new_connections = f64::NAN).contains("from 0 to 1"));
        assert!(wrong(|plan| plan.rate = Rate { from: 1.0, to: 2.0, spike: None }).contains("duration"));
    }
}
