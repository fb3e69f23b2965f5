//! The proof of a worker environment of AWS Elastic Beanstalk: a daemon posts the messages of a queue to a server that is
//! overloaded, loses its store until the spool is full, and is killed and started again.
//!
//! Every message has to be deleted, and every payload to be stored. A message that was received more than once may be stored more
//! than once, if all of its lines have its id as their request id. A message among the dead letters is a finding: its attempts
//! were used up by an overload that has passed.

mod daemon;
mod queue;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::daemon::{Connection, PAYLOADS_PER_MESSAGE, message_id, message_of};
pub use self::daemon::{DaemonSettings, Told};
pub use self::queue::Counts;
use self::queue::Queue;
pub use self::verdict::WorkerTierVerdict;
use super::SpoolContents;
use super::store::{Outage, ProofStore};
use super::testbed::{RESERVED, Setup};
use crate::ledger::{Ledger, Outcome, Sent};
use crate::load::Control;
use crate::payload::{Number, Payloads};
use crate::readback::Reader;
use crate::server::{Program, Server};

/// Far fewer jobs than the daemon has connections.
const MAX_QUEUE: &str = "4";
/// Some seconds of messages.
const SPOOL_MAX_BYTES: &str = "768KiB";
/// How often messages are sent.
const SEND_INTERVAL: Duration = Duration::from_millis(10);
/// How often the queue is asked whether it is empty.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long the port of a server that was killed may be taken by another connection.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A proof of a worker environment.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct WorkerTier {
    /// The rounds are kills of the server, the rate is that of messages, and the store is away for the span.
    pub setup: Setup,
    pub daemon: DaemonSettings,
}

/// The server, and how it is started again at the same address.
struct Target {
    server: Server,
    program: Program,
    addr: SocketAddr,
    starts: u32,
}

/// The request ids of the lines of each message that is stored more than once.
#[derive(Debug, Default)]
struct Lines {
    /// How often each payload was seen.
    seen: BTreeMap<u64, u32>,
    /// Messages with a line of another id.
    other_ids: BTreeSet<usize>,
}

impl WorkerTier {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<WorkerTierVerdict> {
        let Setup { seed, span: _, plan, program, settle, exit_limit, folder, .. } = self.setup.clone();
        for name in RESERVED.into_iter().chain(["MAX_QUEUE", "SPOOL_MAX_BYTES"]) {
            let is_given = program.env.iter().any(|(given, _)| given == name);
            ensure!(!is_given, "{name} is set by the proof: leave it out");
        }
        let folder = match &folder {
            Some(parent) => TempDir::with_prefix_in("loadtest-", parent),
            None => TempDir::with_prefix("loadtest-"),
        }
        .context("making a directory")?;
        say(&format!("sqsd: seed {seed}"));
        let mut store = ProofStore::dir(folder.path())?;
        let mut target = Target::start(&self, folder.path(), &store).await?;
        let start = Instant::now();
        let queue = Arc::new(Queue::new(self.daemon.visibility_timeout, self.daemon.max_retries));
        let (sending, posting) = (CancellationToken::new(), CancellationToken::new());
        let mut sender = JoinSet::new();
        sender.spawn(send(Arc::clone(&queue), plan.rate.steady, sending.clone()));
        let mut connections = JoinSet::new();
        for _ in 0..self.daemon.http_connections {
            let connection = Connection {
                queue: Arc::clone(&queue),
                settings: self.daemon,
                addr: target.addr,
                run: plan.run,
                payload_size: plan.payload_size,
                end: posting.clone(),
            };
            connections.spawn(connection.run());
        }

        let mut broken = Vec::new();
        if let Err(wrong) = Box::pin(self.events(&mut target, &mut store, &queue, &control, &say)).await {
            broken.push(format!("{wrong:#}"));
            store.give_back().await.context("giving the store back")?;
        }
        sending.cancel();
        sender.join_all().await;
        let settling = Instant::now();
        while queue.counts().left() > 0 && settling.elapsed() < settle {
            tokio::time::sleep(ASK_EVERY).await;
        }
        posting.cancel();
        let mut told = Told::default();
        for result in connections.join_all().await {
            told.add(result?);
        }
        broken.extend(told.wrong.iter().map(|wrong| format!("a 200 that does not acknowledge its message: {wrong}")));

        let spool = folder.path().join("spool");
        let draining = Instant::now();
        while !SpoolContents::of(&spool).context("reading the spool")?.segments.is_empty() {
            if draining.elapsed() > settle {
                broken.push(format!("the spool was not drained within {settle:?}"));
                break;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        let kills = target.starts - 1;
        target.server.terminate()?;
        let exit = target.server.wait(exit_limit).await?;
        if exit.code != Some(0) {
            broken.push(format!("the server exited with {} when told to stop", exit.status));
        }
        broken.extend(SpoolContents::of(&spool).context("reading the spool")?.wrong());

        let receives = queue.receives_of_each();
        let mut ledger = self.ledger(&queue);
        let mut lines = Lines::default();
        let payloads = Payloads::new(plan.run, plan.payload_size);
        let mut reader = Reader::new(store.readable().context("the store is away")?, payloads);
        reader.read_each(&mut ledger, &mut |number, line| lines.see(plan.run, number, line)).await?;
        let duplicates = lines.duplicates();
        if let Some(first) = lines.other_ids.first() {
            let count = lines.other_ids.len();
            broken.push(format!(
                "{count} messages are stored under another request id, {} the first",
                message_id(plan.run, *first)
            ));
        }
        let once =
            duplicates.iter().filter(|message| receives.get(**message).is_none_or(|receives| *receives < 2)).count();
        if once > 0 {
            broken.push(format!("{once} messages are stored more than once, and were received once"));
        }
        let mut verdict = WorkerTierVerdict {
            name: "sqsd",
            run: format!("{:08x}", plan.run),
            seed,
            seconds: start.elapsed().as_secs_f64(),
            rate: plan.rate.steady,
            kills,
            messages: queue.counts(),
            receives: queue.receives(),
            told,
            duplicates: duplicates.len() as u64,
            broken,
            objects: reader.objects(),
            ledger: ledger.totals(),
            kept: None,
        };
        if verdict.failed() {
            verdict.kept = Some(folder.keep());
        }
        Ok(verdict)
    }

    /// What happens to the server and to its store.
    async fn events(
        &self,
        target: &mut Target,
        store: &mut ProofStore,
        queue: &Queue,
        control: &Control,
        say: &impl Fn(&str),
    ) -> anyhow::Result<()> {
        let report = |what: &str| {
            let counts = queue.counts();
            say(&format!(
                "sqsd: {what}: {} sent, {} deleted, {} dead letters",
                counts.sent, counts.deleted, counts.dead_letters
            ));
        };
        target.during(self.setup.span / 2, control).await?;
        report("overloaded");
        store.take_away(Outage::Gone).await.context("taking the store away")?;
        target.during(self.setup.span, control).await?;
        report("without a store");
        store.give_back().await.context("giving the store back")?;
        let mut times = fastrand::Rng::with_seed(self.setup.seed);
        for round in 1..=self.setup.rounds {
            let life = self.setup.life(&mut times);
            target.during(life, control).await?;
            if control.end.is_cancelled() {
                break;
            }
            target.restart().await?;
            report(&format!("kill {round} of {} after {life:.1?}", self.setup.rounds));
        }
        target.during(self.setup.span / 2, control).await
    }

    /// The payloads of all messages: those of deleted ones were accepted.
    fn ledger(&self, queue: &Queue) -> Ledger {
        let mut sent = Sent::default();
        for is_deleted in queue.deleted() {
            let first = sent.take(PAYLOADS_PER_MESSAGE);
            let outcome = if is_deleted { Outcome::Accepted } else { Outcome::Unanswered };
            sent.record(first, PAYLOADS_PER_MESSAGE, outcome);
        }
        Ledger::new([sent])
    }
}

/// Sends messages at this rate until the end.
async fn send(queue: Arc<Queue>, rate: f64, end: CancellationToken) {
    let start = Instant::now();
    let mut sent = 0;
    while !end.is_cancelled() {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        (sent..due).for_each(|_| queue.send());
        sent = sent.max(due);
        let _ = tokio::time::timeout(SEND_INTERVAL, end.cancelled()).await;
    }
}

impl Target {
    async fn start(proof: &WorkerTier, folder: &Path, store: &ProofStore) -> anyhow::Result<Self> {
        let spool = folder.join("spool");
        let own = [
            // So that the spool fills while the store is away, and nothing is left of it soon after.
            ("OBJECT_MAX_BYTES", "64KiB"),
            ("OBJECT_MAX_AGE", "1s"),
            ("COMPRESSION", "none"),
            ("MAX_BODY_BYTES", "64KiB"),
            ("MAX_DECODED_BYTES", "64KiB"),
            ("MAX_QUEUE", MAX_QUEUE),
            ("SPOOL_MAX_BYTES", SPOOL_MAX_BYTES),
            ("SPOOL_DIR", &spool.to_string_lossy()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut env = own.to_vec();
        env.extend(store.env());
        env.extend(proof.setup.program.env.iter().cloned());
        let mut program = Program { env, log: Some(folder.join("server-1.log")), ..proof.setup.program.clone() };
        let server = Server::start(&program).await?;
        let addr = server.addr()?;
        // The daemon posts to one address only.
        program.env.push(("LISTEN_ADDR".to_owned(), addr.to_string()));
        Ok(Self { server, program, addr, starts: 1 })
    }

    /// Waits for a time, or less if the proof is ended from outside. An error if the server exits.
    async fn during(&mut self, time: Duration, control: &Control) -> anyhow::Result<()> {
        tokio::select! {
            status = self.server.ended() => bail!("the server exited by itself: {}", status?),
            () = tokio::time::sleep(time) => Ok(()),
            () = control.end.cancelled() => Ok(()),
        }
    }

    /// Kills the server and starts it again at its address.
    async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.stop_at_once().await?;
        self.starts += 1;
        self.program.log =
            self.program.log.as_ref().map(|log| log.with_file_name(format!("server-{}.log", self.starts)));
        let start = Instant::now();
        loop {
            match Server::start(&self.program).await {
                Ok(server) => {
                    self.server = server;
                    return Ok(());
                }
                // An outgoing connection may have got the port.
                Err(wrong) if start.elapsed() > START_LIMIT => return Err(wrong),
                Err(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }
}

impl Lines {
    fn see(&mut self, run: u32, number: Number, line: &[u8]) {
        #[derive(Deserialize)]
        struct Record<'a> {
            request_id: Option<&'a str>,
        }
        *self.seen.entry(number.sequence).or_default() += 1;
        let message = message_of(number);
        let record = serde_json::from_slice::<Record<'_>>(line).ok();
        if record.and_then(|record| record.request_id) != Some(&message_id(run, message)) {
            self.other_ids.insert(message);
        }
    }

    /// Messages with payloads that were seen more than once.
    fn duplicates(&self) -> BTreeSet<usize> {
        let twice = self.seen.iter().filter(|(_, times)| **times > 1);
        twice.map(|(sequence, _)| message_of(Number { client: 0, sequence: *sequence })).collect()
    }
}
