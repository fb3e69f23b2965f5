//! A server and its successors on one address and one `HANDOVER_SOCKET`.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Handovers, Upgrade};
use crate::client::{self, Target};
use crate::proof::testbed::{Testbed, between};
use crate::server::Server;

/// The longest path of a Unix socket.
const MAX_SOCKET_PATH: usize = 107;

const ASK_EVERY: Duration = Duration::from_millis(50);

/// A process logs that it handed over within this time after the other one has exited.
const LOGGED_WITHIN: Duration = Duration::from_millis(200);

/// The share of the shortest handover after which a new process is not killed any more as one that is not ready.
const NOT_READY: f64 = 0.8;

/// A new process is killed within this share of the shortest handover, so that some are killed after it.
const WHOLE_HANDOVER: f64 = 1.6;

/// The shortest handover, while none is known.
const USUAL_HANDOVER: Duration = Duration::from_millis(100);

pub(super) struct Lineage<'a> {
    proof: &'a Upgrade,
    testbed: &'a Testbed<'a>,
    handovers: &'a RefCell<Handovers>,
    name: &'static str,
    env: Vec<(String, String)>,
    times: fastrand::Rng,
    pub(super) target: Target,
    pub(super) server: Server,
    /// From the start of a new process to its log line that it took over.
    shortest: Option<Duration>,
}

impl<'a> Lineage<'a> {
    /// Starts the first server. `target` gets its address.
    pub(super) async fn start(
        proof: &'a Upgrade,
        testbed: &'a Testbed<'a>,
        handovers: &'a RefCell<Handovers>,
        name: &'static str,
        own: &[(&str, &str)],
        target: Target,
    ) -> anyhow::Result<Self> {
        let socket = testbed.path(&format!("{name}.sock"));
        let shown = socket.display();
        ensure!(
            socket.as_os_str().len() <= MAX_SOCKET_PATH,
            "{shown} is too long for a Unix socket: give a shorter --dir"
        );
        // Small objects, so that segments are sealed, uploaded and removed all the time.
        let common = [("OBJECT_MAX_BYTES", "1MiB"), ("HANDOVER_SOCKET", &*socket.to_string_lossy())];
        let mut env = testbed.env(&[&common, own].concat());
        let server = testbed.start(name, &env).await?;
        let addr = server.addr()?;
        // The next ones have the same settings, as in a deployment.
        env.push(("LISTEN_ADDR".to_owned(), addr.to_string()));
        let times = fastrand::Rng::with_seed(proof.setup.seed ^ name.len() as u64);
        Ok(Self { proof, testbed, handovers, name, env, times, target: target.at(addr), server, shortest: None })
    }

    /// Upgrades in a row.
    pub(super) async fn upgrades(&mut self, rounds: u32) {
        self.rounds(rounds, "upgrade", async |this, _| match this.proof.restart {
            true => this.restart().await,
            false => this.upgrade().await,
        })
        .await;
    }

    /// New processes that exit before they are ready: by a signal, or because of their settings.
    pub(super) async fn failed_upgrades(&mut self) {
        self.rounds(self.proof.setup.rounds, "failed upgrade", async |this, round| match round % 2 {
            0 => this.start_with_wrong_settings().await,
            _ => this.kill_before_ready().await,
        })
        .await;
    }

    /// Kills of the old or the new process at a random moment of the handover.
    pub(super) async fn kills(&mut self) {
        self.rounds(self.proof.kill_rounds, "kill", async |this, _| this.kill_in_handover().await).await;
    }

    async fn rounds(&mut self, rounds: u32, what: &str, each: impl AsyncFn(&mut Self, u32) -> anyhow::Result<()>) {
        for round in 1..=rounds {
            let life = self.proof.setup.life(&mut self.times);
            self.testbed.pause(life).await;
            if self.testbed.is_over() {
                return;
            }
            let done = match Box::pin(each(self, round)).await {
                Ok(()) => Box::pin(self.serves()).await,
                Err(wrong) => Err(wrong),
            };
            if let Err(wrong) = done {
                self.broken(&format!("{what} {round} of {rounds}: {wrong:#}"));
                if let Err(wrong) = Box::pin(self.start_again()).await {
                    self.broken(&format!("{wrong:#}"));
                    return;
                }
            }
        }
        self.testbed.say(&format!("{}: {what}: {rounds} rounds done", self.name));
    }

    /// A new process receives the listeners, and the old one exits.
    async fn upgrade(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut new = self.spawn(&[]).await?;
        new.listening().await?;
        new.taken_over().await?;
        self.taken_over_by(new, start.elapsed()).await
    }

    async fn taken_over_by(&mut self, new: Server, in_time: Duration) -> anyhow::Result<()> {
        {
            let mut handovers = self.handovers.borrow_mut();
            handovers.upgrades += 1;
            handovers.longest_upgrade = handovers.longest_upgrade.max(in_time.as_secs_f64());
        }
        self.shortest = Some(self.shortest.map_or(in_time, |shortest| shortest.min(in_time)));
        let old = std::mem::replace(&mut self.server, new);
        self.testbed.exited(self.name, old, "the handover").await
    }

    /// What an upgrade is without a handover: the old one is told to stop, and then the new one starts.
    async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.terminate()?;
        Box::pin(self.start_again()).await
    }

    /// A new process with a file of tokens that cannot be read has to exit with an error.
    async fn start_with_wrong_settings(&mut self) -> anyhow::Result<()> {
        let file = self.testbed.path("tokens-wrong.json");
        std::fs::write(&file, "{")?;
        let new = self.spawn(&[("TOKENS_FILE", &*file.to_string_lossy())]).await?;
        let exit = new.wait(self.proof.setup.exit_limit).await?;
        self.handovers.borrow_mut().failed_upgrades += 1;
        match exit.code {
            Some(0) | None => bail!("a new process with a wrong TOKENS_FILE ended with {}", exit.status),
            Some(_) => Ok(()),
        }
    }

    /// A new process is killed at a random moment before it is ready.
    async fn kill_before_ready(&mut self) -> anyhow::Result<()> {
        let latest = self.shortest.unwrap_or(USUAL_HANDOVER).mul_f64(NOT_READY);
        let moment = between(&mut self.times, Duration::ZERO, latest);
        let start = Instant::now();
        let mut new = self.spawn(&[]).await?;
        match tokio::time::timeout(moment.saturating_sub(start.elapsed()), new.taken_over()).await {
            // It was faster than any before it.
            Ok(taken) => {
                taken?;
                return self.taken_over_by(new, start.elapsed()).await;
            }
            Err(_) => {
                self.testbed.kill(new).await?;
                self.handovers.borrow_mut().failed_upgrades += 1;
            }
        }
        tokio::time::sleep(LOGGED_WITHIN).await;
        if self.server.handed_over() {
            // The requests that fail now are not the server's fault.
            self.testbed.remark(format!("{}: a new process was ready before it was killed", self.name));
            return Box::pin(self.start_again()).await;
        }
        Ok(())
    }

    async fn kill_in_handover(&mut self) -> anyhow::Result<()> {
        let latest = self.shortest.unwrap_or(USUAL_HANDOVER).mul_f64(WHOLE_HANDOVER);
        let moment = between(&mut self.times, Duration::ZERO, latest);
        let kills_old = self.times.bool();
        let start = Instant::now();
        let new = self.spawn(&[]).await?;
        tokio::time::sleep(moment.saturating_sub(start.elapsed())).await;
        if kills_old {
            let old = std::mem::replace(&mut self.server, new);
            self.testbed.kill(old).await?;
            // It serves with the sockets that it has received, or opens its own.
            return self.server.listening().await.context("after the old process was killed");
        }
        self.testbed.kill(new).await?;
        tokio::time::sleep(LOGGED_WITHIN).await;
        if self.server.handed_over() {
            self.handovers.borrow_mut().killed_last += 1;
            return Box::pin(self.start_again()).await;
        }
        Ok(())
    }

    /// Waits for the exit of the server, which was told to stop or handed over, and starts another one.
    async fn start_again(&mut self) -> anyhow::Result<()> {
        self.handovers.borrow_mut().fresh_starts += 1;
        let limit = self.proof.setup.exit_limit;
        if tokio::time::timeout(limit, self.server.ended()).await.is_err() {
            self.broken(&format!("a server did not exit within {limit:?}"));
            self.server.stop_at_once().await?;
        }
        self.server = self.testbed.start_again(self.name, &self.env).await?;
        Ok(())
    }

    /// Waits until a request on a new connection gets a response of a server that does not stop.
    async fn serves(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let asked = client::get(&self.target, "/health", None);
            let asked = tokio::time::timeout(self.proof.setup.settle, asked).await;
            if matches!(asked, Ok(Ok((status, _))) if status < 500) {
                return Ok(());
            }
            if start.elapsed() > self.proof.setup.settle {
                bail!("no server responds after {:?}: {asked:?}", self.proof.setup.settle);
            }
            tokio::select! {
                status = self.server.ended() => bail!("the server exited by itself: {}", status?),
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
    }

    async fn spawn(&self, more: &[(&str, &str)]) -> anyhow::Result<Server> {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.testbed.spawn(self.name, &self.env.iter().cloned().chain(more).collect::<Vec<_>>()).await
    }

    fn broken(&self, what: &str) {
        self.testbed.broken(format!("{}: {what}", self.name));
    }
}
