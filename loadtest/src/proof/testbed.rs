//! What every proof has: a folder, a store, servers with spools in that folder, and a list of what went wrong.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use tempfile::TempDir;

use super::network::Network;
use super::store::ProofStore;
use super::tmpfs::Tmpfs;
use super::{SpoolContents, Verdict};
use crate::ledger::Ledger;
use crate::load::{Control, Plan};
use crate::payload::Payloads;
use crate::readback::Reader;
use crate::report::row;
use crate::server::{Exit, Program, Server};
use crate::units::show_size;

/// Settings of the server that every proof itself sets.
pub(super) const RESERVED: [&str; 4] = ["SPOOL_DIR", "STORE_DIR", "S3_BUCKET", "LISTEN_ADDR"];

/// The interval of reading the spools, and of trying to start a server.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// What every proof is given.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Setup {
    /// The seed of the random times: the same seed and rounds have the same times.
    pub seed: u64,
    pub rounds: u32,
    /// The range of a server's random life in a round.
    pub life: RangeInclusive<Duration>,
    /// The duration of a phase, of an outage, or of a slow store.
    pub span: Duration,
    /// What to send. It has no end of its own, and its target is filled in. The rate is that of all clients.
    pub plan: Plan,
    pub program: Program,
    /// How long a spool may take to drain, a server to start again, or a full spool to accept requests again.
    pub settle: Duration,
    pub exit_limit: Duration,
    /// Where to make the directory for the spools, the store and the logs; `None` is the system's for temporary files. It is
    /// left there if the proof fails.
    pub folder: Option<PathBuf>,
}

/// What was observed of the servers.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Observed {
    pub starts: u32,
    pub kills: u32,
    pub stops: u32,
    /// The longest start of a server, in seconds.
    pub longest_start: f64,
    pub longest_stop: f64,
    /// The peak of any server's resident memory, in bytes.
    pub peak_memory: u64,
    /// From the load's end until the spools were drained, in seconds.
    pub drained_in: Option<f64>,
    pub remarks: Vec<String>,
    /// What went wrong beside the ledger.
    pub broken: Vec<String>,
}

/// A proof while it runs.
pub(super) struct Testbed<'a> {
    pub(super) setup: &'a Setup,
    pub(super) control: Control,
    pub(super) store: ProofStore,
    /// The file system of a spool, if it has a size of its own.
    pub(super) disk: Option<Tmpfs>,
    /// The hosts of the processes, by their names, if they are not all on this one.
    pub(super) network: Option<Network>,
    name: String,
    say: &'a dyn Fn(&str),
    folder: TempDir,
    spools: RefCell<BTreeSet<String>>,
    observed: RefCell<Observed>,
    start: Instant,
}

impl Setup {
    /// The next random life of a server.
    pub(super) fn life(&self, times: &mut fastrand::Rng) -> Duration {
        between(times, *self.life.start(), *self.life.end())
    }
}

/// The next random time between these.
pub(super) fn between(times: &mut fastrand::Rng, from: Duration, to: Duration) -> Duration {
    from.saturating_add(to.saturating_sub(from).mul_f64(times.f64()))
}

impl<'a> Testbed<'a> {
    /// Without servers. `own` are settings that this proof sets beside [`RESERVED`] ones.
    pub(super) async fn set_up(
        name: impl Into<String>,
        setup: &'a Setup,
        own: &[&str],
        store: impl AsyncFnOnce(&TempDir) -> anyhow::Result<ProofStore>,
        control: Control,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        for name in RESERVED.iter().chain(own) {
            let is_given = setup.program.env.iter().any(|(given, _)| given == name);
            ensure!(!is_given, "{name} is set by the proof: leave it out");
        }
        let folder = match &setup.folder {
            Some(parent) => TempDir::with_prefix_in("loadtest-", parent),
            None => TempDir::with_prefix("loadtest-"),
        }
        .context("making a directory")?;
        let store = store(&folder).await?;
        let ((spools, observed), name) = (Default::default(), name.into());
        let this = Self {
            setup,
            control,
            store,
            disk: None,
            network: None,
            name,
            say,
            folder,
            spools,
            observed,
            start: Instant::now(),
        };
        // Also for a proof without a verdict.
        this.say(&format!("seed {}", setup.seed));
        Ok(this)
    }

    /// A file or directory in the folder of the proof.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A `SPOOL_DIR`, which has to be drained at the end.
    pub(super) fn spool(&self, name: &str) -> String {
        self.spools.borrow_mut().insert(name.to_owned());
        self.path(name).to_string_lossy().into_owned()
    }

    /// The environment of a server with these settings.
    pub(super) fn env(&self, own: &[(&str, &str)]) -> Vec<(String, String)> {
        // Young objects, so that segments are sealed, uploaded and removed all the time.
        let common = [("OBJECT_MAX_AGE", "1s"), ("SPOOL_MAX_BYTES", "4GiB")];
        let all = common.iter().chain(own).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        all.chain(self.store.env()).chain(self.setup.program.env.iter().cloned()).collect()
    }

    pub(super) fn say(&self, what: &str) {
        (self.say)(&format!("{}: {what}", self.name));
    }

    /// Reports, now and in the verdict.
    pub(super) fn remark(&self, what: impl Into<String>) {
        let what = what.into();
        self.say(&what);
        self.observed.borrow_mut().remarks.push(what);
    }

    /// Reports that something is wrong, now and in the verdict.
    pub(super) fn broken(&self, what: impl Into<String>) {
        let what = what.into();
        self.say(&format!("WRONG: {what}"));
        self.observed.borrow_mut().broken.push(what);
    }

    pub(super) fn stops(&self) -> u32 {
        self.observed.borrow().stops
    }

    /// Whether the load was ended from outside.
    pub(super) fn is_over(&self) -> bool {
        self.control.end.is_cancelled()
    }

    /// Waits for a time, or less if the load is ended from outside.
    pub(super) async fn pause(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.control.end.cancelled()).await;
    }

    /// Starts a process, whose log is in the folder under this name.
    pub(super) async fn spawn(&self, name: &str, env: &[(String, String)]) -> anyhow::Result<Server> {
        self.observed.borrow_mut().starts += 1;
        let log = self.path(&format!("{name}-{}.log", self.observed.borrow().starts));
        let program = Program { env: env.to_vec(), log: Some(log), ..self.setup.program.clone() };
        Server::spawn(&self.on_host(name, program)?).await
    }

    /// The program as a process on the host of this name.
    pub(super) fn on_host(&self, name: &str, program: Program) -> anyhow::Result<Program> {
        match &self.network {
            Some(network) => network.inside(name, program),
            None => Ok(program),
        }
    }

    /// Starts a server, and waits until it listens.
    pub(super) async fn start(&self, name: &str, env: &[(String, String)]) -> anyhow::Result<Server> {
        let start = Instant::now();
        let mut server = self.spawn(name, env).await?;
        server.listening().await.with_context(|| self.setup.program.path.display().to_string())?;
        let longest = &mut self.observed.borrow_mut().longest_start;
        *longest = longest.max(start.elapsed().as_secs_f64());
        Ok(server)
    }

    /// Starts a server on a port that has been in use before.
    pub(super) async fn start_again(&self, name: &str, env: &[(String, String)]) -> anyhow::Result<Server> {
        let start = Instant::now();
        loop {
            match Box::pin(self.start(name, env)).await {
                // An outgoing connection may have got the port.
                Err(_) if start.elapsed() < self.setup.settle => tokio::time::sleep(RETRY_EVERY).await,
                started => return started.context("no server starts any more"),
            }
        }
    }

    /// Kills a server.
    pub(super) async fn kill(&self, server: Server) -> anyhow::Result<Exit> {
        let exit = server.kill().await?;
        let mut observed = self.observed.borrow_mut();
        observed.kills += 1;
        observed.peak_memory = observed.peak_memory.max(exit.usage.peak);
        Ok(exit)
    }

    /// Tells a server to stop, and waits for its exit.
    pub(super) async fn stop(&self, name: &str, server: Server) -> anyhow::Result<()> {
        // It may have exited by itself, which its exit code shows.
        let _ = server.terminate();
        self.exited(name, server, "SIGTERM").await
    }

    /// Waits for the exit of a server after what has to end it. With another code than 0 the proof has failed, and goes on.
    pub(super) async fn exited(&self, name: &str, server: Server, after: &str) -> anyhow::Result<()> {
        let limit = self.setup.exit_limit;
        let exit = server.wait(limit).await?;
        {
            let mut observed = self.observed.borrow_mut();
            observed.stops += 1;
            observed.longest_stop = observed.longest_stop.max(exit.seconds);
            observed.peak_memory = observed.peak_memory.max(exit.usage.peak);
        }
        if exit.killed {
            self.broken(format!("{name}: a process did not exit within {limit:?} of {after}"));
        } else if exit.code != Some(0) {
            self.broken(format!("{name}: a process exited with {} after {after}", exit.status));
        }
        Ok(())
    }

    /// Waits until everything in the spools is stored.
    pub(super) async fn drain(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while let Some(name) = self.undrained()? {
            if start.elapsed() > self.setup.settle {
                self.broken(format!("{name} was not drained within {:?} of the load's end", self.setup.settle));
                return Ok(());
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
        self.observed.borrow_mut().drained_in = Some(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// A spool with segments.
    fn undrained(&self) -> anyhow::Result<Option<String>> {
        for name in self.spools.borrow().iter() {
            if !self.contents(name)?.segments.is_empty() {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    fn contents(&self, spool: &str) -> anyhow::Result<SpoolContents> {
        SpoolContents::of(&self.path(spool)).with_context(|| format!("reading {spool}"))
    }

    /// The verdict, after all servers have stopped: reads the spools and the store, and stops the store.
    /// Errors: they cannot be read.
    pub(super) async fn conclude<D>(self, mut ledger: Ledger, details: D) -> anyhow::Result<Verdict<D>> {
        for name in self.spools.borrow().iter() {
            self.contents(name)?.wrong().iter().for_each(|wrong| self.broken(format!("{name}: {wrong}")));
        }
        let plan = &self.setup.plan;
        let store = self.store.readable().context("the store is away")?;
        let mut reader = Reader::new(store, Payloads::new(plan.run, plan.payload_size));
        reader.read(&mut ledger).await?;
        let ledger = ledger.totals();
        if ledger.accepted == 0 {
            self.broken("nothing was accepted, so nothing was proved");
        }
        let mut verdict = Verdict {
            name: self.name.clone(),
            run: format!("{:08x}", plan.run),
            seed: self.setup.seed,
            rounds: self.setup.rounds,
            seconds: self.start.elapsed().as_secs_f64(),
            rate: plan.rate.to_string(),
            details,
            observed: self.observed.take(),
            objects: reader.objects(),
            s3: self.store.close().await,
            ledger,
            kept: None,
        };
        // The folder cannot be removed while a disk is mounted in it.
        drop(self.disk);
        if verdict.failed() {
            verdict.kept = Some(self.folder.keep());
        }
        Ok(verdict)
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { starts, kills, stops, longest_start, longest_stop, .. } = self;
        row(f, "servers", &format!("{starts} started, {kills} killed, {stops} stopped"))?;
        row(f, "longest start, stop", &format!("{longest_start:.2} s, {longest_stop:.2} s"))?;
        row(f, "peak memory", &show_size(self.peak_memory))?;
        row(f, "spool drained", &self.drained_in.map_or("never".to_owned(), |seconds| format!("in {seconds:.1} s")))?;
        self.remarks.iter().try_for_each(|remark| row(f, "", remark))
    }
}
