//! The comparison of mirrors: what copies of all requests cost the server that sends them.
//!
//! There is a server for each state of the other side, which gets the copies: none, one that responds at once, one that
//! responds after a second, one that never responds, and one that is away. All run at the same time, share a store, and get
//! the load in turn, a step each, so that whatever else the machine does hits all of them. No request may fail, and everything
//! accepted has to be stored once. Latency and CPU are reported beside those of the server without a mirror, and not judged.

mod side;
mod verdict;

use anyhow::{Context, ensure};
use serde_json::json;

pub use self::side::OtherSide;
use self::side::OtherSides;
pub use self::verdict::{Copies, MirrorDetails, Mirrored};
use super::phase::{Client, Mix, Tolerance};
use super::store::ProofStore;
use super::testbed::Testbed;
use super::{Setup, Verdict};
use crate::client::{self, Target};
use crate::load::Control;
use crate::server::Server;

/// A comparison of mirrors. In each round every server gets the load for a span.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Mirrors {
    pub setup: Setup,
}

impl Mirrors {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<Verdict<MirrorDetails>> {
        let store = async |_: &_| ProofStore::memory().await;
        let testbed = Testbed::set_up("rollout, mirrors", &self.setup, &["ROLLOUT_FILE"], store, control, &say).await?;
        let sides = OtherSides::start().await?;
        let mut servers = Vec::new();
        for side in OtherSide::ALL {
            servers.push((start(&testbed, side, sides.url(side)).await?, Mirrored::new(side)));
        }

        let mut mix = Mix::new(vec![Client::new("keep-alive", self.setup.plan.clone())]);
        for round in 0..self.setup.rounds as usize {
            // Another one is the first of each round.
            let first = round % servers.len();
            for index in (first..servers.len()).chain(0..first) {
                if testbed.is_over() {
                    break;
                }
                let (server, mirrored) = &mut servers[index];
                mix.send_to(&Target::from(server.addr()?));
                let before = server.usage();
                let name = format!("mirror {}, round {}", mirrored.side.name(), round + 1);
                let step = testbed.pause(self.setup.span);
                let (phase, ()) = Box::pin(mix.during(&testbed, &name, Tolerance::Nothing, step)).await?;
                mirrored.add(&phase, server.usage().cpu_since(&before));
            }
        }
        for (server, mirrored) in &mut servers {
            mirrored.copies = copies(server).await.context("GET /metrics")?;
            if mirrored.side == OtherSide::Prompt && mirrored.copies.sent == 0 {
                testbed.broken("no copy was sent to the other side that responds at once");
            }
        }
        testbed.drain().await?;
        let mut mirrors = Vec::new();
        for (server, mirrored) in servers {
            testbed.stop(&format!("mirror {}", mirrored.side.name()), server).await?;
            mirrors.push(mirrored);
        }
        testbed.conclude(mix.into_ledger(), MirrorDetails { mirrors }).await
    }
}

/// Starts a server that sends copies of all requests to `url`. Without one it has no `ROLLOUT_FILE`.
async fn start(testbed: &Testbed<'_>, side: OtherSide, url: Option<&str>) -> anyhow::Result<Server> {
    let name = side.name();
    let mut env = testbed.env(&[("SPOOL_DIR", &testbed.spool(&format!("spool-{name}")))]);
    if let Some(url) = url {
        let file = testbed.path(&format!("{name}.json"));
        std::fs::write(&file, json!({"mirror": {"url": url, "percent": 100}}).to_string())?;
        env.push(("ROLLOUT_FILE".to_owned(), file.to_string_lossy().into_owned()));
    }
    testbed.start(name, &env).await
}

/// What became of the copies of a server; without a mirror, or if it does not know mirrors, there are none.
async fn copies(server: &Server) -> anyhow::Result<Copies> {
    let Some(admin) = server.admin_addr()() else { return Ok(Copies::default()) };
    let (status, metrics) = client::get(&Target::from(admin), "/metrics", None).await?;
    ensure!(status == 200, "{status}");
    Ok(Copies::of(&metrics))
}
