//! The environment of an event: one spool, the servers on it, and the state of the load.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::sync::watch;

use super::spool::SpoolContents;
use super::store::{Outage, ProofStore};
use super::testbed::Testbed;
use super::tmpfs::Tmpfs;
use super::{Event, Proof};
use crate::load::{Control, Destination, Progress};
use crate::server::Server;
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

pub(super) struct Environment<'a> {
    pub(super) proof: &'a Proof,
    pub(super) testbed: Testbed<'a>,
    times: fastrand::Rng,
    load: watch::Receiver<LoadState>,
    /// The environment of every server.
    env: Vec<(String, String)>,
}

impl<'a> Environment<'a> {
    pub(super) async fn set_up(
        proof: &'a Proof,
        control: Control,
        load: watch::Receiver<LoadState>,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let store = async |folder: &TempDir| match proof.in_process_s3 {
            true => ProofStore::s3(folder.path(), proof.faults.clone()).await,
            false => ProofStore::dir(folder.path()),
        };
        let mut testbed = Testbed::set_up(proof.event.name(), &proof.setup, &[], store, control, say).await?;
        let spool = testbed.spool("spool");
        let mut spool_max = "1GiB".to_owned();
        if proof.event == Event::DiskFull {
            if proof.real_disk {
                match Tmpfs::mount(Path::new(&spool), proof.disk_bytes) {
                    Ok(disk) => testbed.disk = Some(disk),
                    Err(wrong) => testbed.remark(format!("no tmpfs, so SPOOL_MAX_BYTES is the limit: {wrong:#}")),
                }
            }
            if testbed.disk.is_none() {
                spool_max = proof.disk_bytes.to_string();
            }
        }
        let own = [("OBJECT_MAX_BYTES", "256KiB"), ("SPOOL_MAX_BYTES", &*spool_max), ("SPOOL_DIR", &*spool)];
        let env = testbed.env(&own);
        Ok(Self { proof, testbed, times: fastrand::Rng::with_seed(proof.setup.seed), load, env })
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.testbed.path("spool")
    }

    /// `SPOOL_MAX_BYTES` as the servers have it.
    pub(super) fn spool_max(&self) -> Option<u64> {
        let (_, value) = self.env.iter().rev().find(|(name, _)| name == "SPOOL_MAX_BYTES")?;
        units::size(value).ok().map(|bytes| bytes as u64)
    }

    /// A server's life in a round.
    pub(super) fn life(&mut self) -> Duration {
        self.proof.setup.life(&mut self.times)
    }

    /// Starts a server, and sends the load to it.
    pub(super) async fn start(&self) -> anyhow::Result<Server> {
        let server = Box::pin(self.testbed.start("server", &self.env)).await?;
        self.send_load_to(&server)?;
        Ok(server)
    }

    /// Sends the load to this server from now on.
    pub(super) fn send_load_to(&self, server: &Server) -> anyhow::Result<()> {
        self.testbed.control.destination.send_replace(Destination::To(server.addr()?));
        Ok(())
    }

    /// The load waits until there is a server again.
    pub(super) fn pause_load(&self) {
        self.testbed.control.destination.send_replace(Destination::Nowhere);
    }

    /// Kills a server.
    pub(super) async fn kill(&self, server: Server) -> anyhow::Result<()> {
        let exit = self.testbed.kill(server).await?;
        ensure!(exit.code.is_none(), "the server exited by itself before it could be killed: {}", exit.status);
        Ok(())
    }

    /// Tells a server to stop, and waits for its exit.
    pub(super) async fn stop(&self, server: Server) -> anyhow::Result<()> {
        self.testbed.stop("server", server).await
    }

    /// Waits for the exit of a server that was told to stop.
    pub(super) async fn stopped(&self, server: Server) -> anyhow::Result<()> {
        self.testbed.exited("server", server, "SIGTERM").await
    }

    /// Waits for a time, or less if the load is ended from outside. An error if the server exits.
    pub(super) async fn during(&self, server: &mut Server, time: Duration) -> anyhow::Result<()> {
        tokio::select! {
            status = server.ended() => bail!("the server exited by itself: {}", status?),
            () = tokio::time::sleep(time) => Ok(()),
            () = self.testbed.control.end.cancelled() => Ok(()),
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
            () = self.testbed.control.end.cancelled() => Ok(true),
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
    pub(super) async fn drain(&self, server: &mut Server) -> anyhow::Result<()> {
        tokio::select! {
            status = server.ended() => bail!("the server exited by itself: {}", status?),
            drained = self.testbed.drain() => drained,
        }
    }

    /// Takes the store away.
    pub(super) async fn store_away(&mut self, outage: Outage) -> anyhow::Result<()> {
        self.testbed.store.take_away(outage).await.context("taking the store away")
    }

    /// Gives the store back, if it is away.
    pub(super) async fn store_back(&mut self) -> anyhow::Result<()> {
        self.testbed.store.give_back().await.context("giving the store back")
    }
}
