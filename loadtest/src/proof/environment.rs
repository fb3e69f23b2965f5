//! The environment of a proof: a spool, a store, the servers on them, and the state of the load.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tokio::sync::watch;

use super::spool::SpoolContents;
use super::store::{Outage, ProofStore};
use super::tmpfs::Tmpfs;
use super::{Event, Proof};
use crate::load::{Control, Destination, Progress};
use crate::readback::Store;
use crate::s3::Stats;
use crate::server::{Program, Server};
use crate::units;

/// The interval of reading the spool's folders.
const READ_EVERY: Duration = Duration::from_millis(100);

/// The load in its last second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LoadState {
    /// Requests accepted, and with a 5xx response, in that second.
    pub(super) accepted: u64,
    pub(super) failed: u64,
    /// The same since the start.
    pub(super) all_accepted: u64,
    pub(super) all_failed: u64,
}

impl LoadState {
    pub(super) fn update(&mut self, progress: &Progress<'_>) {
        let statuses = &progress.recent.statuses;
        self.accepted = statuses.range(200..300).map(|(_, count)| count).sum();
        self.failed = statuses.range(500..600).map(|(_, count)| count).sum();
        self.all_accepted += self.accepted;
        self.all_failed += self.failed;
    }
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
    /// From the load's end until the spool was drained, in seconds.
    pub drained_in: Option<f64>,
    pub remarks: Vec<String>,
    /// What went wrong beside the ledger.
    pub broken: Vec<String>,
}

pub(super) struct Environment<'a> {
    pub(super) proof: &'a Proof,
    pub(super) observed: Observed,
    times: fastrand::Rng,
    folder: PathBuf,
    control: Control,
    load: watch::Receiver<LoadState>,
    say: &'a dyn Fn(&str),
    store: ProofStore,
    /// The environment of every server.
    env: Vec<(String, String)>,
    disk: Option<Tmpfs>,
}

impl<'a> Environment<'a> {
    pub(super) async fn set_up(
        proof: &'a Proof,
        folder: &Path,
        control: Control,
        load: watch::Receiver<LoadState>,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let store = match proof.in_process_s3 {
            true => ProofStore::s3(folder, proof.faults.clone()).await?,
            false => ProofStore::dir(folder)?,
        };
        let mut this = Self {
            proof,
            observed: Observed::default(),
            times: fastrand::Rng::with_seed(proof.seed),
            folder: folder.to_owned(),
            control,
            load,
            say,
            store,
            env: Vec::new(),
            disk: None,
        };
        let mut spool_max = "1GiB".to_owned();
        if proof.event == Event::DiskFull {
            if proof.real_disk {
                match Tmpfs::mount(&this.spool(), proof.disk_bytes) {
                    Ok(disk) => this.disk = Some(disk),
                    Err(wrong) => this.remark(format!("no tmpfs, so SPOOL_MAX_BYTES is the limit: {wrong:#}")),
                }
            }
            if this.disk.is_none() {
                spool_max = proof.disk_bytes.to_string();
            }
        }
        let mut set = |name: &str, value: &str| this.env.push((name.to_owned(), value.to_owned()));
        // Small and young objects, so that segments are sealed, uploaded and removed all the time.
        set("OBJECT_MAX_BYTES", "256KiB");
        set("OBJECT_MAX_AGE", "1s");
        set("SPOOL_MAX_BYTES", &spool_max);
        set("SPOOL_DIR", &folder.join("spool").to_string_lossy());
        this.env.extend(this.store.env());
        this.env.extend(proof.program.env.iter().cloned());
        Ok(this)
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    /// The store to read, from now on without faults.
    pub(super) fn store(&self) -> anyhow::Result<Store> {
        self.store.readable().context("the store is away")
    }

    /// Whether the spool's disk has a size of its own.
    pub(super) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// `SPOOL_MAX_BYTES` as the servers have it.
    pub(super) fn spool_max(&self) -> Option<u64> {
        let (_, value) = self.env.iter().rev().find(|(name, _)| name == "SPOOL_MAX_BYTES")?;
        units::size(value).ok().map(|bytes| bytes as u64)
    }

    pub(super) fn say(&self, what: &str) {
        (self.say)(&format!("{}: {what}", self.proof.event.name()));
    }

    /// Reports, now and in the verdict.
    pub(super) fn remark(&mut self, what: String) {
        self.say(&what);
        self.observed.remarks.push(what);
    }

    /// Reports that something is wrong, now and in the verdict.
    pub(super) fn broken(&mut self, what: String) {
        self.say(&format!("WRONG: {what}"));
        self.observed.broken.push(what);
    }

    /// Whether the load was ended from outside.
    pub(super) fn is_over(&self) -> bool {
        self.control.end.is_cancelled()
    }

    /// A server's life in a round.
    pub(super) fn life(&mut self) -> Duration {
        let (from, to) = (self.proof.life.start(), self.proof.life.end());
        from.saturating_add(to.saturating_sub(*from).mul_f64(self.times.f64()))
    }

    /// Starts a server, and sends the load to it.
    pub(super) async fn start(&mut self) -> anyhow::Result<Server> {
        self.observed.starts += 1;
        let program = Program {
            env: self.env.clone(),
            log: Some(self.folder.join(format!("server-{}.log", self.observed.starts))),
            ..self.proof.program.clone()
        };
        let start = Instant::now();
        let server = Box::pin(Server::start(&program)).await?;
        self.observed.longest_start = self.observed.longest_start.max(start.elapsed().as_secs_f64());
        self.send_load_to(&server)?;
        Ok(server)
    }

    /// Sends the load to this server from now on.
    pub(super) fn send_load_to(&self, server: &Server) -> anyhow::Result<()> {
        self.control.destination.send_replace(Destination::To(server.addr()?));
        Ok(())
    }

    /// The load waits until there is a server again.
    pub(super) fn pause_load(&self) {
        self.control.destination.send_replace(Destination::Nowhere);
    }

    /// Kills a server.
    pub(super) async fn kill(&mut self, server: Server) -> anyhow::Result<()> {
        let exit = server.kill().await?;
        self.observed.kills += 1;
        self.observed.peak_memory = self.observed.peak_memory.max(exit.usage.peak);
        ensure!(exit.code.is_none(), "the server exited by itself before it could be killed: {}", exit.status);
        Ok(())
    }

    /// Tells a server to stop, and waits for its exit. With another code than 0 the proof has failed, and goes on.
    pub(super) async fn stop(&mut self, server: Server) -> anyhow::Result<()> {
        server.terminate()?;
        self.stopped(server).await
    }

    /// Waits for the exit of a server that was told to stop.
    pub(super) async fn stopped(&mut self, server: Server) -> anyhow::Result<()> {
        let exit = server.wait(self.proof.exit_limit).await?;
        self.observed.stops += 1;
        self.observed.longest_stop = self.observed.longest_stop.max(exit.seconds);
        self.observed.peak_memory = self.observed.peak_memory.max(exit.usage.peak);
        if exit.killed {
            self.broken(format!("a server did not exit within {:?} of SIGTERM", self.proof.exit_limit));
        } else if exit.code != Some(0) {
            self.broken(format!("a server exited with {} when told to stop", exit.status));
        }
        Ok(())
    }

    /// Waits for a time, or less if the load is ended from outside. An error if the server exits.
    pub(super) async fn during(&self, server: &mut Server, time: Duration) -> anyhow::Result<()> {
        tokio::select! {
            status = server.ended() => bail!("the server exited by itself: {}", status?),
            () = tokio::time::sleep(time) => Ok(()),
            () = self.control.end.cancelled() => Ok(()),
        }
    }

    pub(super) fn load_state(&self) -> LoadState {
        *self.load.borrow()
    }

    /// Waits until the state of the load satisfies this; false if it does not in `limit`.
    pub(super) async fn load_when(
        &self,
        server: &mut Server,
        limit: Duration,
        mut is_so: impl FnMut(&LoadState) -> bool,
    ) -> anyhow::Result<bool> {
        let mut load = self.load.clone();
        load.mark_unchanged();
        let seen = async {
            while load.changed().await.is_ok() {
                if is_so(&load.borrow()) {
                    return true;
                }
            }
            false
        };
        tokio::select! {
            status = server.ended() => bail!("the server exited by itself: {}", status?),
            seen = tokio::time::timeout(limit, seen) => Ok(seen.unwrap_or(false)),
            () = self.control.end.cancelled() => Ok(true),
        }
    }

    /// Waits until the spool satisfies this, and returns how long that took; `None` if it does not in `limit`.
    pub(super) async fn spool_when(
        &self,
        server: &mut Server,
        limit: Duration,
        mut is_so: impl FnMut(&SpoolContents) -> bool,
    ) -> anyhow::Result<Option<Duration>> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if is_so(&SpoolContents::of(&self.spool()).context("reading the spool")?) {
                return Ok(Some(start.elapsed()));
            }
            tokio::select! {
                status = server.ended() => bail!("the server exited by itself: {}", status?),
                () = tokio::time::sleep(READ_EVERY) => {}
            }
        }
        Ok(None)
    }

    /// Waits until everything in the spool is stored.
    pub(super) async fn drain(&mut self, server: &mut Server) -> anyhow::Result<()> {
        let limit = self.proof.settle;
        let drained = self.spool_when(server, limit, |spool| spool.segments.is_empty()).await?;
        if drained.is_none() {
            self.broken(format!("the spool was not drained within {limit:?} of the load's end"));
        }
        self.observed.drained_in = drained.as_ref().map(Duration::as_secs_f64);
        Ok(())
    }

    /// Takes the store away.
    pub(super) async fn store_away(&mut self, outage: Outage) -> anyhow::Result<()> {
        self.store.take_away(outage).await.context("taking the store away")
    }

    /// Gives the store back, if it is away.
    pub(super) async fn store_back(&mut self) -> anyhow::Result<()> {
        self.store.give_back().await.context("giving the store back")
    }

    /// Stops the store, and returns what was observed.
    pub(super) async fn tear_down(self) -> (Observed, Option<Stats>) {
        (self.observed, self.store.close().await)
    }
}
