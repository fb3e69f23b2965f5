//! The comparison of mirrors: what copies of all requests cost the server that sends them.
//!
//! There is a server for each state of the other side, which gets the copies: none, one that responds at once, one that
//! responds after a second, one that never responds, and one that is away. All run at the same time, share a store, and get
//! the load in turn, a step each, so that whatever else the machine does hits all of them. No request may fail, and everything
//! accepted has to be stored once. Latency and CPU are reported beside those of the server without a mirror, and not judged.

mod side;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use tempfile::TempDir;

pub use self::side::OtherSide;
use self::side::OtherSides;
pub use self::verdict::{Copies, MirrorVerdict, Mirrored};
use super::phase::{Client, Mix, Tolerance};
use super::upgrade::drained;
use super::{RESERVED, SpoolContents};
use crate::client::{self, Target};
use crate::load::{Control, Plan};
use crate::payload::Payloads;
use crate::readback::{Reader, Store};
use crate::s3::S3Server;
use crate::server::{Program, Server};

/// The most bytes of objects, which are in memory.
const STORE_LIMIT: usize = 2 << 30;

/// A comparison of mirrors.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Mirrors {
    /// In each round every server gets the load for a step.
    pub rounds: u32,
    pub step: Duration,
    /// What to send.
    pub plan: Plan,
    pub program: Program,
    pub settle: Duration,
    pub exit_limit: Duration,
    /// As in a [`Proof`](super::Proof).
    pub folder: Option<PathBuf>,
}

/// A server that sends copies to an other side.
struct Mirroring {
    server: Server,
    spool: PathBuf,
    result: Mirrored,
}

impl Mirrors {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<MirrorVerdict> {
        for name in RESERVED.into_iter().chain(["ROLLOUT_FILE"]) {
            let is_given = self.program.env.iter().any(|(given, _)| given == name);
            ensure!(!is_given, "{name} is set by the proof: leave it out");
        }
        let folder = match &self.folder {
            Some(parent) => TempDir::with_prefix_in("loadtest-", parent),
            None => TempDir::with_prefix("loadtest-"),
        }
        .context("making a directory")?;
        let s3 = S3Server::start_in_memory("millpond", STORE_LIMIT).await?;
        let sides = OtherSides::start().await?;
        let mut servers = Vec::new();
        for side in OtherSide::ALL {
            servers.push(self.start(side, sides.url(side), folder.path(), &s3).await?);
        }

        let start = Instant::now();
        let mut mix = Mix::new(vec![Client::new("keep-alive", self.plan.clone())], control.clone());
        let mut broken = Vec::new();
        for round in 0..self.rounds as usize {
            // Another one is the first of each round.
            let first = round % servers.len();
            for index in (first..servers.len()).chain(0..first) {
                if control.end.is_cancelled() {
                    break;
                }
                let Mirroring { server, result, .. } = &mut servers[index];
                mix.send_to(&Target::from(server.addr()?));
                let before = server.usage();
                let step = tokio::time::timeout(self.step, control.end.cancelled());
                let name = format!("mirror {}, round {}", result.side.name(), round + 1);
                let (phase, _) = Box::pin(mix.during(&name, Tolerance::Nothing, step)).await?;
                result.add(&phase, server.usage().cpu_since(&before));
                broken.extend(phase.wrong());
                say(&format!("rollout: {name}: {} failed", phase.failed));
            }
        }
        let mut results = Vec::new();
        for mut mirroring in servers {
            mirroring.result.copies = copies(&mirroring.server).await.context("GET /metrics")?;
            broken.extend(self.finish(&mirroring.result, mirroring.server, &mirroring.spool).await?);
            results.push(mirroring.result);
        }

        let mut ledger = mix.into_ledger();
        let mut reader = Reader::new(Store::of(&s3), Payloads::new(self.plan.run, self.plan.payload_size));
        reader.read(&mut ledger).await?;
        let mut verdict = MirrorVerdict {
            name: "rollout, mirrors",
            run: format!("{:08x}", self.plan.run),
            rounds: self.rounds,
            seconds: start.elapsed().as_secs_f64(),
            rate: self.plan.rate.to_string(),
            mirrors: results,
            broken,
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

    /// Starts a server that sends copies of all requests to `url`. Without one it has no `ROLLOUT_FILE`.
    async fn start(
        &self,
        side: OtherSide,
        url: Option<&str>,
        folder: &Path,
        s3: &S3Server,
    ) -> anyhow::Result<Mirroring> {
        let spool = folder.join(side.name());
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut env = vec![
            set("OBJECT_MAX_AGE", "1s"),
            set("SPOOL_MAX_BYTES", "4GiB"),
            set("SPOOL_DIR", &spool.to_string_lossy()),
        ];
        if let Some(url) = url {
            let file = folder.join(format!("{}.json", side.name()));
            std::fs::write(&file, json!({"mirror": {"url": url, "percent": 100}}).to_string())?;
            env.push(set("ROLLOUT_FILE", &file.to_string_lossy()));
        }
        env.extend(s3.env());
        env.extend(self.program.env.iter().cloned());
        let log = Some(folder.join(format!("{}.log", side.name())));
        let server = Server::start(&Program { env, log, ..self.program.clone() }).await?;
        Ok(Mirroring { server, spool, result: Mirrored::new(side) })
    }

    /// Stops a server when its spool is drained, and returns what went wrong.
    async fn finish(&self, result: &Mirrored, server: Server, spool: &Path) -> anyhow::Result<Vec<String>> {
        let mut broken = Vec::new();
        if result.side == OtherSide::Prompt && result.copies.sent == 0 {
            broken.push("no copy was sent to the other side that responds at once".to_owned());
        }
        if !drained(spool, self.settle).await.context("reading the spool")? {
            broken.push(format!("the spool was not drained within {:?} of the load's end", self.settle));
        }
        // It may have exited by itself, which its exit code shows.
        let _ = server.terminate();
        let exit = server.wait(self.exit_limit).await?;
        if exit.code != Some(0) {
            broken.push(format!("a server exited with {} when told to stop", exit.status));
        }
        broken.extend(SpoolContents::of(spool).context("reading the spool")?.wrong());
        let name = result.side.name();
        Ok(broken.into_iter().map(|wrong| format!("mirror {name}: {wrong}")).collect())
    }
}

/// What became of the copies of a server; without a mirror, or if it does not know mirrors, there are none.
async fn copies(server: &Server) -> anyhow::Result<Copies> {
    let Some(admin) = server.admin_addr()() else { return Ok(Copies::default()) };
    let (status, metrics) = client::get(&Target::from(admin), "/metrics", None).await?;
    ensure!(status == 200, "{status}");
    Ok(Copies::of(&metrics))
}
