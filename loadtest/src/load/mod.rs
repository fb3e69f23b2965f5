//! The load generator: every payload is sent once, and every answer is booked.

mod connection;
mod lane;
mod pacer;
mod receipts;
mod tally;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::batch::{Encoding, Form};
use crate::ledger::{Ledger, Sent};

pub(crate) use self::connection::Connection;
use self::lane::Lane;
pub use self::receipts::Receipts;
pub use self::tally::{Latencies, Quantiles, Tally};

/// What to send, where to, and how fast.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// Path and query of the request.
    pub path: String,
    /// Requests a second over all connections; 0 is as fast as they are answered.
    pub rate: f64,
    /// Connections kept open; each is one endpoint, with a request under way at a time.
    pub connections: u32,
    /// Threads that the connections are spread over.
    pub threads: u32,
    /// How long to send; `None` is until the requests are used up or the load is stopped.
    pub duration: Option<Duration>,
    /// How many requests to send; `None` is no limit.
    pub requests: Option<u64>,
    /// Payloads in a request.
    pub per_request: usize,
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

    fn lanes(self: &Arc<Self>, control: &Control) -> anyhow::Result<Vec<Lane>> {
        let count = self.threads.clamp(1, self.connections.max(1));
        (0..count)
            .map(|at| {
                let endpoints: Vec<u32> = (at..self.connections).step_by(count as usize).collect();
                let share = endpoints.len() as f64 / f64::from(self.connections.max(1));
                Ok(Lane {
                    plan: Arc::clone(self),
                    endpoints,
                    rate: self.rate * share,
                    requests: self
                        .requests
                        .map(|all| all / u64::from(count) + u64::from(u64::from(at) < all % u64::from(count))),
                    control: control.clone(),
                    tally: Arc::new(Mutex::new(Tally::new()?)),
                })
            })
            .collect()
    }
}

/// Carries the plan out, calling `progress` once a second.
///
/// # Errors
///
/// The generator itself failed. A server that is away, refuses or breaks connections is no error but a result.
pub async fn run(plan: Plan, control: Control, mut progress: impl FnMut(&Progress<'_>)) -> anyhow::Result<Done> {
    let plan = Arc::new(plan);
    let lanes = plan.lanes(&control)?;
    let tallies: Vec<_> = lanes.iter().map(|lane| Arc::clone(&lane.tally)).collect();
    let (mut total, mut recent) = (Tally::new()?, Tally::new()?);
    let collect = |into: &mut Tally| {
        for tally in &tallies {
            into.take_from(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
    };

    let start = Instant::now();
    let mut threads = JoinSet::new();
    for lane in lanes {
        threads.spawn_blocking(move || lane.run());
    }
    let deadline = async {
        match plan.duration {
            Some(duration) => tokio::time::sleep(duration).await,
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
    collect(&mut total);
    sent.sort_unstable_by_key(|(endpoint, _)| *endpoint);
    let ledger = Ledger::new(sent.into_iter().map(|(_, sent): (u32, Sent)| sent));
    Ok(Done { ledger, tally: total, elapsed })
}
