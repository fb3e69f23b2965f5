//! What a scene is played on: a spool, a store, the servers on them, and a view of the load.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::sync::watch;

use super::depot::{Away, Depot};
use super::spool::Remains;
use super::tmpfs::Tmpfs;
use super::{Proof, Scene};
use crate::load::{Control, Progress, Whither};
use crate::readback::Store;
use crate::report::S3Report;
use crate::server::{Program, Server};
use crate::units;

/// How often a folder is looked at for a change.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The load, as it was seen last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pulse {
    /// How often it was looked at.
    pub(super) beats: u64,
    /// Requests accepted, and answered with 5xx, from the one look to the next.
    pub(super) accepted: u64,
    pub(super) failed: u64,
    /// The same since the beginning.
    pub(super) all_accepted: u64,
    pub(super) all_failed: u64,
}

impl Pulse {
    pub(super) fn beat(&mut self, progress: &Progress<'_>) {
        let statuses = &progress.recent.statuses;
        self.beats += 1;
        self.accepted = statuses.range(200..300).map(|(_, count)| count).sum();
        self.failed = statuses.range(500..600).map(|(_, count)| count).sum();
        self.all_accepted += self.accepted;
        self.all_failed += self.failed;
    }
}

/// What was seen of the servers.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    pub(super) starts: u32,
    pub(super) start_longest: Duration,
    pub(super) kills: u32,
    pub(super) stops: u32,
    pub(super) stop_longest: Duration,
    pub(super) peak_memory: u64,
    pub(super) drained_in: Option<Duration>,
    /// What the scene has to tell beside.
    pub(super) remarks: Vec<String>,
    /// What went wrong.
    pub(super) broken: Vec<String>,
}

pub(super) struct Stage<'a> {
    pub(super) proof: &'a Proof,
    pub(super) tracks: Tracks,
    times: fastrand::Rng,
    folder: PathBuf,
    control: Control,
    pulse: watch::Receiver<Pulse>,
    say: &'a dyn Fn(&str),
    depot: Depot,
    /// The environment of every server.
    env: Vec<(String, String)>,
    disk: Option<Tmpfs>,
}

impl<'a> Stage<'a> {
    pub(super) async fn set(
        proof: &'a Proof,
        folder: &Path,
        control: Control,
        pulse: watch::Receiver<Pulse>,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let depot = match proof.in_process_s3 {
            true => Depot::s3(folder, proof.faults.clone()).await?,
            false => Depot::dir(folder)?,
        };
        let mut stage = Self {
            proof,
            tracks: Tracks::default(),
            times: fastrand::Rng::with_seed(proof.seed),
            folder: folder.to_owned(),
            control,
            pulse,
            say,
            depot,
            env: Vec::new(),
            disk: None,
        };
        let mut spool_max = "1GiB".to_owned();
        if proof.scene == Scene::DiskFull {
            if proof.real_disk {
                match Tmpfs::mount(&stage.spool(), proof.disk_bytes) {
                    Ok(disk) => stage.disk = Some(disk),
                    Err(wrong) => stage.remark(format!("no tmpfs, so SPOOL_MAX_BYTES is the limit: {wrong:#}")),
                }
            }
            if stage.disk.is_none() {
                spool_max = proof.disk_bytes.to_string();
            }
        }
        let mut set = |name: &str, value: &str| stage.env.push((name.to_owned(), value.to_owned()));
        // Small and young objects, so that sealing, uploading and removing happen all the time.
        set("OBJECT_MAX_BYTES", "256KiB");
        set("OBJECT_MAX_AGE", "1s");
        set("SPOOL_MAX_BYTES", &spool_max);
        set("SPOOL_DIR", &folder.join("spool").to_string_lossy());
        stage.env.extend(stage.depot.env());
        stage.env.extend(proof.program.env.iter().cloned());
        Ok(stage)
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    /// Where to read the objects, from now on without faults.
    pub(super) fn store(&self) -> anyhow::Result<Store> {
        self.depot.calm();
        self.depot.store().context("the store is away")
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
        (self.say)(&format!("{}: {what}", self.proof.scene.name()));
    }

    /// Tells, now and in the verdict.
    pub(super) fn remark(&mut self, what: String) {
        self.say(&what);
        self.tracks.remarks.push(what);
    }

    /// Books that something is not as it should be.
    pub(super) fn broken(&mut self, what: String) {
        self.say(&format!("WRONG: {what}"));
        self.tracks.broken.push(what);
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

    /// Starts a server. The load goes to it as soon as it listens.
    pub(super) async fn start(&mut self) -> anyhow::Result<Server> {
        self.tracks.starts += 1;
        let program = Program {
            env: self.env.clone(),
            log: Some(self.folder.join(format!("server-{}.log", self.tracks.starts))),
            ..self.proof.program.clone()
        };
        let start = Instant::now();
        let server = Box::pin(Server::start(&program)).await?;
        self.tracks.start_longest = self.tracks.start_longest.max(start.elapsed());
        self.direct(&server)?;
        Ok(server)
    }

    /// The load goes to this server from now on.
    pub(super) fn direct(&self, server: &Server) -> anyhow::Result<()> {
        self.control.whither.send_replace(Whither::To(server.addr()?));
        Ok(())
    }

    /// The load waits until there is a server again.
    pub(super) fn nowhere(&self) {
        self.control.whither.send_replace(Whither::Nowhere);
    }

    /// Kills a server.
    pub(super) async fn kill(&mut self, server: Server) -> anyhow::Result<()> {
        let exit = server.kill().await?;
        self.tracks.kills += 1;
        self.tracks.peak_memory = self.tracks.peak_memory.max(exit.usage.peak);
        ensure!(exit.code.is_none(), "the server ended by itself before it could be killed: {}", exit.status);
        Ok(())
    }

    /// Tells a server to stop, and sees it end. With anything else than 0 the proof has failed, and goes on.
    pub(super) async fn stop(&mut self, server: Server) -> anyhow::Result<()> {
        server.terminate()?;
        self.stopped(server).await
    }

    /// Sees a server end that was told to.
    pub(super) async fn stopped(&mut self, server: Server) -> anyhow::Result<()> {
        let exit = server.wait(self.proof.exit_limit).await?;
        self.tracks.stops += 1;
        self.tracks.stop_longest = self.tracks.stop_longest.max(Duration::from_secs_f64(exit.seconds));
        self.tracks.peak_memory = self.tracks.peak_memory.max(exit.usage.peak);
        if exit.killed {
            self.broken(format!("a server did not end within {:?} of SIGTERM", self.proof.exit_limit));
        } else if exit.code != Some(0) {
            self.broken(format!("a server ended with {} when told to stop", exit.status));
        }
        Ok(())
    }

    /// Lets time pass over a running server, or less if the load is ended from outside.
    pub(super) async fn during(&self, server: &mut Server, time: Duration) -> anyhow::Result<()> {
        tokio::select! {
            status = server.ended() => bail!("the server ended by itself: {}", status?),
            () = tokio::time::sleep(time) => Ok(()),
            () = self.control.end.cancelled() => Ok(()),
        }
    }

    pub(super) fn pulse(&self) -> Pulse {
        *self.pulse.borrow()
    }

    /// Waits until the load looks like this; false if it does not in `limit`.
    pub(super) async fn pulse_when(
        &self,
        server: &mut Server,
        limit: Duration,
        mut is_so: impl FnMut(&Pulse) -> bool,
    ) -> anyhow::Result<bool> {
        let mut pulse = self.pulse.clone();
        pulse.mark_unchanged();
        let seen = async {
            while pulse.changed().await.is_ok() {
                if is_so(&pulse.borrow()) {
                    return true;
                }
            }
            false
        };
        tokio::select! {
            status = server.ended() => bail!("the server ended by itself: {}", status?),
            seen = tokio::time::timeout(limit, seen) => Ok(seen.unwrap_or(false)),
            () = self.control.end.cancelled() => Ok(true),
        }
    }

    /// Waits until the spool looks like this, and says how long that took; nothing if it does not in `limit`.
    pub(super) async fn spool_when(
        &self,
        server: &mut Server,
        limit: Duration,
        mut is_so: impl FnMut(&Remains) -> bool,
    ) -> anyhow::Result<Option<Duration>> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if is_so(&Remains::of(&self.spool()).context("looking into the spool")?) {
                return Ok(Some(start.elapsed()));
            }
            tokio::select! {
                status = server.ended() => bail!("the server ended by itself: {}", status?),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        Ok(None)
    }

    /// Waits until everything in the spool is stored.
    pub(super) async fn drain(&mut self, server: &mut Server) -> anyhow::Result<()> {
        let limit = self.proof.settle;
        let drained = self.spool_when(server, limit, |remains| remains.segments.is_empty()).await?;
        if drained.is_none() {
            self.broken(format!("the spool was not drained within {limit:?} of the load's end"));
        }
        self.tracks.drained_in = drained;
        Ok(())
    }

    /// Takes the store away.
    pub(super) async fn store_away(&mut self, away: Away) -> anyhow::Result<()> {
        self.depot.take_away(away).await.context("taking the store away")
    }

    /// Gives the store back, if it is away.
    pub(super) async fn store_back(&mut self) -> anyhow::Result<()> {
        self.depot.give_back().await.context("giving the store back")
    }

    /// Ends it all, and hands over what was seen.
    pub(super) async fn strike(self) -> (Tracks, Option<S3Report>) {
        (self.tracks, self.depot.close().await)
    }
}
