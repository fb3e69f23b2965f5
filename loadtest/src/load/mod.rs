//! The load generator: every payload is sent once, and every response is recorded.

mod control;
mod pacer;
mod plan;
mod rate;
mod receipts;
mod requests;
mod shape;
mod tally;
mod thread;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::control::Start;
pub use self::control::{Control, Destination};
use self::pacer::Pacer;
pub use self::plan::{MAX_CONNECTIONS, Plan};
pub use self::rate::{Rate, Spike};
pub use self::receipts::Receipts;
use self::requests::Requests;
pub use self::shape::Shape;
pub use self::tally::{Latencies, Quantiles, Tally};
use self::thread::LoadThread;
use crate::files;
use crate::ledger::{Ledger, Sent};

/// What a load has done.
#[derive(Debug)]
pub struct Done {
    /// The outcome of every payload.
    pub ledger: Ledger,
    /// The measurements.
    pub tally: Tally,
    /// From the first request due to the last response.
    pub elapsed: Duration,
}

/// The progress of a running load.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Since the load began.
    pub elapsed: Duration,
    /// The measurements since the last time.
    pub recent: &'a Tally,
    /// The span of those measurements.
    pub span: Duration,
}

fn threads(plan: &Arc<Plan>, control: &Control, start: &Start, count: u32) -> anyhow::Result<Vec<LoadThread>> {
    let share = |of: u64, at: u32| of / u64::from(count) + u64::from(u64::from(at) < of % u64::from(count));
    let thread = |at: u32| {
        let connections = share(plan.connections.into(), at) as usize;
        let clients = (at..plan.clients()).step_by(count as usize).map(|client| plan.first_client + client).collect();
        Ok(LoadThread {
            plan: Arc::clone(plan),
            connections,
            stock: Requests::new(plan, clients)?,
            pacer: Pacer::new(plan.rate, at.into(), count.into()),
            requests: plan.requests.map(|all| share(all, at)),
            control: control.clone(),
            start: start.clone(),
            tally: Arc::new(Mutex::new(Tally::new()?)),
        })
    };
    (0..count).map(thread).collect()
}

/// Carries the plan out, and calls `progress` once a second and at the end. First the connections are made, a few at a
/// time; the load begins when all are made, or have failed once.
/// Errors: the generator itself failed. A server that is away, rejects requests or breaks connections is a result.
pub async fn run(plan: Plan, control: Control, mut progress: impl FnMut(&Progress<'_>)) -> anyhow::Result<Done> {
    plan.check()?;
    files::allow(plan.connections)?;
    let plan = Arc::new(plan);
    let count = plan.threads.min(plan.connections);
    // The threads, and this one, which reads the clock.
    let start = Start::of(count as usize + 1);
    let threads = threads(&plan, &control, &start, count)?;
    let tallies: Vec<_> = threads.iter().map(|thread| Arc::clone(&thread.tally)).collect();
    let (mut total, mut recent) = (Tally::new()?, Tally::new()?);
    let collect = |into: &mut Tally| {
        for tally in &tallies {
            into.take_from(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
    };

    let mut running = JoinSet::new();
    // A thread that fails must not leave the others waiting for it.
    let end = control.end.clone();
    for thread in threads {
        let end = end.clone();
        running.spawn_blocking(move || thread.run().inspect_err(|_| end.cancel()));
    }
    let began = start.wait(&end).await;
    let deadline = async {
        match plan.duration {
            Some(duration) => tokio::time::sleep_until((began + duration).into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    second.reset();
    let mut last = began;
    let mut sent = Vec::new();
    loop {
        tokio::select! {
            () = &mut deadline, if !control.end.is_cancelled() => control.end.cancel(),
            _ = second.tick() => {
                collect(&mut recent);
                progress(&Progress { elapsed: began.elapsed(), recent: &recent, span: last.elapsed() });
                last = Instant::now();
                total.take_from(&mut recent);
            }
            thread = running.join_next() => match thread {
                Some(done) => sent.extend(done.context("a thread of the generator failed")??),
                None => break,
            }
        }
    }
    let elapsed = began.elapsed();
    // The rest is reported too, so that all reports add up to the whole.
    collect(&mut recent);
    progress(&Progress { elapsed, recent: &recent, span: last.elapsed() });
    total.take_from(&mut recent);
    sent.sort_unstable_by_key(|(client, _)| *client);
    let ledger = Ledger::new(sent.into_iter().map(|(_, sent): (u32, Sent)| sent));
    Ok(Done { ledger, tally: total, elapsed })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// A port that refuses connections for as long as the socket lives: it is bound, and does not listen.
    fn closed_port() -> tokio::net::TcpSocket {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        socket
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_that_were_due_without_a_server_are_recorded_as_never_sent() {
        // Twenty are due within a short time and no more after it. However late the threads run, these are due at the
        // end, and each is recorded.
        let spike = Some("400@0s+50ms".parse().unwrap());
        let rate = Rate { spike, ..Rate::steady(1e-6) };
        let duration = Some(Duration::from_millis(200));
        let closed = closed_port();
        let plan = Plan { rate, duration, connections: 8, threads: 2, ..Plan::new(closed.local_addr().unwrap()) };
        for streams in [0, 1] {
            let plan = Plan { streams, ..plan.clone() };
            let done = Box::pin(run(plan, Control::default(), |_| {})).await.unwrap();
            assert_eq!((done.tally.answered(), done.tally.unanswered, done.tally.unsent), (0, 0, 20));
            assert_eq!(done.tally.connects, 0);
            assert!(done.tally.connect_errors >= 8);
            assert!(done.tally.connect_error.unwrap().contains("refused"));
        }
    }
}
