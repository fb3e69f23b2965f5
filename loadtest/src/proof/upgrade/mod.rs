//! The proof of live upgrades: new processes receive the listeners of old ones, under a load of all kinds of clients.
//!
//! Two servers, one of them with TLS, share a spool and a store. In the first phase nothing happens, so that its latency can be
//! compared; then new processes receive the listeners, in a row; then new processes exit before they are ready; then old or new processes
//! are killed during the handover. Except in the last phase, a request that failed is a finding: one without a response, with
//! one other than 2xx, or a connection that could not be made. A request that the server did not process, and says so, is sent
//! again by any client: a pipelined one after a response with `Connection: close`, and a stream above the last one of a GOAWAY.

mod lineage;
mod verdict;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use tempfile::TempDir;

use self::lineage::Lineage;
pub use self::verdict::UpgradeVerdict;
use super::phase::{Client, Mix, Phase, Tolerance};
use super::{RESERVED, SpoolContents};
use crate::client::{SelfSigned, Target};
use crate::load::{Control, Plan};
use crate::payload::Payloads;
use crate::readback::{Reader, Store};
use crate::s3::S3Server;
use crate::server::Program;

/// The most bytes of objects, which are in memory.
const STORE_LIMIT: usize = 2 << 30;

/// The longest path of a Unix socket.
const MAX_SOCKET_PATH: usize = 107;

const READ_EVERY: Duration = Duration::from_millis(100);

/// A proof of live upgrades.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Upgrade {
    /// The seed of the random times.
    pub seed: u64,
    /// Upgrades in a row, and then as many that fail.
    pub rounds: u32,
    /// Kills of the old or the new process.
    pub kill_rounds: u32,
    /// Stops the old process before it starts the new one, without a handover: the verdict of this has to be that it failed.
    pub restart: bool,
    /// The range of the random time before each of them.
    pub life: RangeInclusive<Duration>,
    /// The duration of the phase without upgrades.
    pub quiet: Duration,
    /// What to send. The rate is that of all clients.
    pub plan: Plan,
    pub program: Program,
    pub settle: Duration,
    pub exit_limit: Duration,
    /// As in a [`Proof`](super::Proof).
    pub folder: Option<PathBuf>,
}

/// What was observed of the processes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Observed {
    pub starts: u32,
    pub upgrades: u32,
    pub failed_upgrades: u32,
    pub kills: u32,
    /// Kills of a new process that had the listeners, so that none was left.
    pub killed_last: u32,
    /// Starts without a handover, beside the first.
    pub fresh_starts: u32,
    /// The longest time from the start of a new process until it had the listeners, in seconds.
    pub longest_upgrade: f64,
    /// The longest time from then until the old one exited, in seconds.
    pub longest_exit: f64,
    pub remarks: Vec<String>,
    pub broken: Vec<String>,
}

impl Upgrade {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<UpgradeVerdict> {
        for name in RESERVED.into_iter().chain(["HANDOVER_SOCKET", "TLS_CERT", "TLS_KEY"]) {
            let is_given = self.program.env.iter().any(|(given, _)| given == name);
            ensure!(!is_given, "{name} is set by the proof: leave it out");
        }
        let folder = match &self.folder {
            Some(parent) => TempDir::with_prefix_in("loadtest-", parent),
            None => TempDir::with_prefix("loadtest-"),
        }
        .context("making a directory")?;
        say(&format!("upgrade: seed {}", self.seed));
        let s3 = S3Server::start_in_memory("millpond", STORE_LIMIT).await?;
        let certificate = SelfSigned::generate(folder.path())?;
        let any = Target::from(self.plan.target.addr);
        let secure = any.clone().with_tls(SelfSigned::HOST, Some(&certificate.cert))?;
        let mut plain = self.lineage("plain", folder.path(), &s3, &[], any, &control, &say).await?;
        let mut tls = self.lineage("tls", folder.path(), &s3, &certificate.env(), secure, &control, &say).await?;

        let start = Instant::now();
        let mut mix = Mix::new(Client::all(&self.plan, &plain.target, Some(&tls.target)), control.clone());
        let mut phases = Vec::new();
        let quiet = tokio::time::timeout(self.quiet, control.end.cancelled());
        phases.push(mix.during("without upgrades", Tolerance::Nothing, quiet).await?.0);
        let upgrades = async { tokio::join!(plain.upgrades(), tls.upgrades()) };
        phases.push(Box::pin(mix.during("upgrades", Tolerance::Nothing, upgrades)).await?.0);
        if !self.restart {
            let failed = async { tokio::join!(plain.failed_upgrades(), tls.failed_upgrades()) };
            phases.push(Box::pin(mix.during("failed upgrades", Tolerance::Nothing, failed)).await?.0);
            if self.kill_rounds > 0 {
                let kills = async { tokio::join!(plain.kills(), tls.kills()) };
                phases.push(Box::pin(mix.during("kills", Tolerance::Everything, kills)).await?.0);
            }
        }

        let spool = folder.path().join("spool");
        let drained = drained(&spool, self.settle).await.context("reading the spool")?;
        let mut observed = Observed::default();
        for lineage in [&mut plain, &mut tls] {
            if let Err(wrong) = lineage.stop().await {
                lineage.observed.broken.push(format!("{wrong:#}"));
            }
            observed.add(std::mem::take(&mut lineage.observed));
        }
        if !drained {
            observed.broken.push(format!("the spool was not drained within {:?} of the load's end", self.settle));
        }
        observed.broken.extend(SpoolContents::of(&spool).context("reading the spool")?.wrong());
        observed.broken.extend(phases.iter().flat_map(Phase::wrong));
        let at_rate = phases.iter().filter(|phase| phase.tolerance == Tolerance::Nothing);
        observed.remarks.extend(at_rate.filter_map(|phase| phase.below(self.plan.rate)));
        let mut ledger = mix.into_ledger();
        ledger.failed_may_stay();
        let mut reader = Reader::new(Store::of(&s3), Payloads::new(self.plan.run, self.plan.payload_size));
        reader.read(&mut ledger).await?;
        let mut verdict = UpgradeVerdict {
            name: "upgrade",
            run: format!("{:08x}", self.plan.run),
            seed: self.seed,
            rounds: self.rounds,
            kill_rounds: self.kill_rounds,
            seconds: start.elapsed().as_secs_f64(),
            rate: self.plan.rate.to_string(),
            phases,
            observed,
            objects: reader.objects(),
            ledger: ledger.totals(),
            kept: None,
        };
        s3.stop().await;
        if verdict.failed() {
            verdict.kept = Some(folder.keep());
        }
        Ok(verdict)
    }

    #[expect(clippy::too_many_arguments, reason = "what two servers differ in, and what they share")]
    async fn lineage<'a>(
        &'a self,
        name: &'static str,
        folder: &Path,
        s3: &S3Server,
        tls: &[(String, String)],
        target: Target,
        control: &Control,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Lineage<'a>> {
        let socket = folder.join(format!("{name}.sock"));
        ensure!(
            socket.as_os_str().len() <= MAX_SOCKET_PATH,
            "{} is too long for a Unix socket: give a shorter --dir",
            socket.display()
        );
        let mut env: Vec<_> = [
            // Small and young objects, so that segments are sealed, uploaded and removed all the time.
            ("OBJECT_MAX_BYTES", "1MiB"),
            ("OBJECT_MAX_AGE", "1s"),
            ("SPOOL_MAX_BYTES", "4GiB"),
            ("SPOOL_DIR", &folder.join("spool").to_string_lossy()),
            ("HANDOVER_SOCKET", &socket.to_string_lossy()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        env.extend(s3.env());
        env.extend_from_slice(tls);
        env.extend(self.program.env.iter().cloned());
        Lineage::start(self, name, folder.to_owned(), env, target, control.clone(), say).await
    }
}

/// Waits until everything in the spool is stored; false if it is not in `limit`.
pub(super) async fn drained(spool: &Path, limit: Duration) -> std::io::Result<bool> {
    let start = Instant::now();
    while !SpoolContents::of(spool)?.segments.is_empty() {
        if start.elapsed() > limit {
            return Ok(false);
        }
        tokio::time::sleep(READ_EVERY).await;
    }
    Ok(true)
}

impl Observed {
    fn add(&mut self, other: Self) {
        self.starts += other.starts;
        self.upgrades += other.upgrades;
        self.failed_upgrades += other.failed_upgrades;
        self.kills += other.kills;
        self.killed_last += other.killed_last;
        self.fresh_starts += other.fresh_starts;
        self.longest_upgrade = self.longest_upgrade.max(other.longest_upgrade);
        self.longest_exit = self.longest_exit.max(other.longest_exit);
        self.remarks.extend(other.remarks);
        self.broken.extend(other.broken);
    }
}
