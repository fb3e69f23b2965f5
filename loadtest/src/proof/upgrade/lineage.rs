//! A server and its successors on one address and one `HANDOVER_SOCKET`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Observed, Upgrade};
use crate::client::{self, Target};
use crate::load::Control;
use crate::server::{Program, Server};

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
    name: &'static str,
    folder: PathBuf,
    env: Vec<(String, String)>,
    control: Control,
    times: fastrand::Rng,
    say: &'a dyn Fn(&str),
    pub(super) target: Target,
    server: Server,
    /// From the start of a new process to its log line that it took over.
    shortest: Option<Duration>,
    pub(super) observed: Observed,
}

impl<'a> Lineage<'a> {
    /// Starts the first server. `target` gets its address.
    pub(super) async fn start(
        proof: &'a Upgrade,
        name: &'static str,
        folder: PathBuf,
        env: Vec<(String, String)>,
        target: Target,
        control: Control,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let log = Some(folder.join(format!("{name}-1.log")));
        let server = Server::start(&Program { env: env.clone(), log, ..proof.program.clone() }).await?;
        let addr = server.addr()?;
        let mut this = Self {
            times: fastrand::Rng::with_seed(proof.seed ^ name.len() as u64),
            target: target.at(addr),
            proof,
            name,
            folder,
            env,
            control,
            say,
            server,
            shortest: None,
            observed: Observed { starts: 1, ..Observed::default() },
        };
        // The next ones have the same settings, as in a deployment.
        this.env.push(("LISTEN_ADDR".to_owned(), addr.to_string()));
        Ok(this)
    }

    /// Upgrades in a row.
    pub(super) async fn upgrades(&mut self) {
        self.rounds(self.proof.rounds, "upgrade", async |this, _| match this.proof.restart {
            true => this.restart().await,
            false => this.upgrade().await,
        })
        .await;
    }

    /// New processes that exit before they are ready: by a signal, or because of their settings.
    pub(super) async fn failed_upgrades(&mut self) {
        self.rounds(self.proof.rounds, "failed upgrade", async |this, round| match round % 2 {
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
            let life = self.random(*self.proof.life.start(), *self.proof.life.end());
            if tokio::time::timeout(life, self.control.end.cancelled()).await.is_ok() {
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
        (self.say)(&format!("upgrade: {}: {what}: {rounds} rounds done", self.name));
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
        self.observed.upgrades += 1;
        self.observed.longest_upgrade = self.observed.longest_upgrade.max(in_time.as_secs_f64());
        self.shortest = Some(self.shortest.map_or(in_time, |shortest| shortest.min(in_time)));
        let old = std::mem::replace(&mut self.server, new);
        self.exited(old).await
    }

    /// What an upgrade is without a handover: the old one is told to stop, and then the new one starts.
    async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.terminate()?;
        Box::pin(self.start_again()).await
    }

    /// A new process with a file of tokens that cannot be read has to exit with an error.
    async fn start_with_wrong_settings(&mut self) -> anyhow::Result<()> {
        let file = self.folder.join("tokens-wrong.json");
        std::fs::write(&file, "{")?;
        let new = self.spawn(&[("TOKENS_FILE", &file.to_string_lossy())]).await?;
        let exit = new.wait(self.proof.exit_limit).await?;
        self.observed.failed_upgrades += 1;
        match exit.code {
            Some(0) | None => bail!("a new process with a wrong TOKENS_FILE ended with {}", exit.status),
            Some(_) => Ok(()),
        }
    }

    /// A new process is killed at a random moment before it is ready.
    async fn kill_before_ready(&mut self) -> anyhow::Result<()> {
        let latest = self.shortest.unwrap_or(USUAL_HANDOVER).mul_f64(NOT_READY);
        let moment = self.random(Duration::ZERO, latest);
        let start = Instant::now();
        let mut new = self.spawn(&[]).await?;
        match tokio::time::timeout(moment.saturating_sub(start.elapsed()), new.taken_over()).await {
            // It was faster than any before it.
            Ok(taken) => {
                taken?;
                return self.taken_over_by(new, start.elapsed()).await;
            }
            Err(_) => {
                self.kill(new).await?;
                self.observed.failed_upgrades += 1;
            }
        }
        tokio::time::sleep(LOGGED_WITHIN).await;
        if self.server.handed_over() {
            // The requests that fail now are not the server's fault.
            self.observed.remarks.push(format!("{}: a new process was ready before it was killed", self.name));
            return Box::pin(self.start_again()).await;
        }
        Ok(())
    }

    async fn kill_in_handover(&mut self) -> anyhow::Result<()> {
        let latest = self.shortest.unwrap_or(USUAL_HANDOVER).mul_f64(WHOLE_HANDOVER);
        let moment = self.random(Duration::ZERO, latest);
        let kills_old = self.times.bool();
        let start = Instant::now();
        let new = self.spawn(&[]).await?;
        tokio::time::sleep(moment.saturating_sub(start.elapsed())).await;
        if kills_old {
            let old = std::mem::replace(&mut self.server, new);
            self.kill(old).await?;
            // It serves with the sockets that it has received, or opens its own.
            return self.server.listening().await.context("after the old process was killed");
        }
        self.kill(new).await?;
        tokio::time::sleep(LOGGED_WITHIN).await;
        if self.server.handed_over() {
            self.observed.killed_last += 1;
            return Box::pin(self.start_again()).await;
        }
        Ok(())
    }

    /// Waits for the exit of the server, which was told to stop or handed over, and starts another one.
    async fn start_again(&mut self) -> anyhow::Result<()> {
        self.observed.fresh_starts += 1;
        let limit = self.proof.exit_limit;
        if tokio::time::timeout(limit, self.server.ended()).await.is_err() {
            self.broken(&format!("a server did not exit within {limit:?}"));
            self.server.stop_at_once().await?;
        }
        let start = Instant::now();
        loop {
            let mut new = self.spawn(&[]).await?;
            match new.listening().await {
                Ok(()) => {
                    self.server = new;
                    return Ok(());
                }
                // An outgoing connection may have got the port.
                Err(wrong) if start.elapsed() > self.proof.settle => {
                    return Err(wrong.context("no server starts any more"));
                }
                Err(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }

    /// Waits until a request on a new connection gets a response of a server that does not stop.
    async fn serves(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let asked = client::get(&self.target, "/health", None);
            let asked = tokio::time::timeout(self.proof.settle, asked).await;
            if matches!(asked, Ok(Ok((status, _))) if status < 500) {
                return Ok(());
            }
            if start.elapsed() > self.proof.settle {
                bail!("no server responds after {:?}: {asked:?}", self.proof.settle);
            }
            tokio::select! {
                status = self.server.ended() => bail!("the server exited by itself: {}", status?),
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Tells the last server to stop.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        self.server.terminate()?;
        let status = tokio::time::timeout(self.proof.exit_limit, self.server.ended()).await;
        match status.context("the last server did not exit in time")?? {
            status if status.success() => Ok(()),
            status => bail!("the last server exited with {status} when told to stop"),
        }
    }

    /// Waits for the exit of a server that has handed over.
    async fn exited(&mut self, old: Server) -> anyhow::Result<()> {
        let exit = old.wait(self.proof.exit_limit).await?;
        self.observed.longest_exit = self.observed.longest_exit.max(exit.seconds);
        if exit.killed {
            self.broken(&format!("an old process did not exit within {:?} of the handover", self.proof.exit_limit));
        } else if exit.code != Some(0) {
            self.broken(&format!("an old process exited with {} after the handover", exit.status));
        }
        Ok(())
    }

    async fn kill(&mut self, server: Server) -> anyhow::Result<()> {
        server.kill().await?;
        self.observed.kills += 1;
        Ok(())
    }

    async fn spawn(&mut self, more: &[(&str, &str)]) -> anyhow::Result<Server> {
        self.observed.starts += 1;
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let program = Program {
            env: self.env.iter().cloned().chain(more).collect(),
            log: Some(self.folder.join(format!("{}-{}.log", self.name, self.observed.starts))),
            ..self.proof.program.clone()
        };
        Server::spawn(&program).await
    }

    fn random(&mut self, from: Duration, to: Duration) -> Duration {
        from + to.saturating_sub(from).mul_f64(self.times.f64())
    }

    fn broken(&mut self, what: &str) {
        let what = format!("{}: {what}", self.name);
        (self.say)(&format!("upgrade: WRONG: {what}"));
        self.observed.broken.push(what);
    }
}
