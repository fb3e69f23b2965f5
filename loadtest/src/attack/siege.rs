//! An attack beside a normal load: what the others notice of it, and what it costs the server.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tempfile::TempDir;

use super::{Assault, Attack, Outcome, Peak, Watch};
use crate::ledger::Totals;
use crate::load::{self, Control, Plan, Quantiles};
use crate::payload::Payloads;
use crate::readback::{Reader, Store};
use crate::server::{Program, Server};
use crate::units::{show_micros, show_size};

/// How long the server may take to stop.
const EXIT_LIMIT: Duration = Duration::from_secs(60);

/// With more connections than this, a server that bounds those of an address would take the load for the attack.
const MANY: u32 = 1_000;

/// One attack on one server.
#[derive(Debug, Clone)]
pub struct Siege {
    /// The server to start. With more than 1,000 connections it is told to take as many of one address, unless its
    /// environment says otherwise.
    pub program: Program,
    /// The normal load, which has a duration.
    pub plan: Plan,
    /// The attack; `None` is quiet.
    pub attack: Option<Attack>,
    /// Its connections.
    pub connections: u32,
    /// Its bytes a second over all of them; `None` is as fast as they are taken.
    pub bandwidth: Option<u64>,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Besieged {
    /// The attack; `None` is quiet.
    pub attack: Option<Attack>,
    /// What it did.
    pub outcome: Outcome,
    /// Latency of the normal load's accepted requests.
    pub accepted: Quantiles,
    /// Requests of the normal load that were not accepted, or not answered, or never sent.
    pub not_accepted: u64,
    /// What became of its payloads.
    pub ledger: Totals,
    /// The most that the server took.
    pub peak: Peak,
    /// What it had before anything was sent.
    pub before: Peak,
    /// CPU seconds that it used up.
    pub cpu_seconds: f64,
    /// Its exit code.
    pub code: Option<i32>,
}

impl Siege {
    /// Starts the server, loads and attacks it, stops it, and checks that all it accepted is stored.
    ///
    /// # Errors
    ///
    /// Something could not be set up or read back.
    pub async fn run(self) -> anyhow::Result<Besieged> {
        let Self { mut program, mut plan, attack, connections, bandwidth } = self;
        let fresh = TempDir::with_prefix("loadtest-").context("making a folder")?;
        let folder = |name: &str| fresh.path().join(name);
        let given = std::mem::take(&mut program.env);
        let own = [("STORE_DIR", folder("objects")), ("SPOOL_DIR", folder("spool"))];
        program.env = own.map(|(name, path)| (name.to_owned(), path.to_string_lossy().into_owned())).to_vec();
        if connections + plan.connections > MANY {
            // The attack and the load come from one address, which they do not across a network.
            program.env.push(("MAX_CONNECTIONS_PER_ADDRESS".to_owned(), "off".to_owned()));
        }
        program.env.extend(given);
        let mut server = Server::start(&program).await?;
        plan.target = server.addr()?;
        let watch = Watch { pid: server.pid() };
        let before = watch.look().context("the server is gone")?;
        let duration = plan.duration.context("the load has a duration")?;
        let assault = async {
            match attack {
                None => Ok(Outcome::default()),
                Some(attack) => {
                    let target = plan.target;
                    Assault { attack, target, connections, duration, persists: true, bandwidth }.run().await
                }
            }
        };
        let load = Box::pin(load::run(plan.clone(), Control::default(), |_| {}));
        let ((done, outcome), peak) = watch.during(async { tokio::join!(load, assault) }).await;
        let (mut done, outcome) = (done?, outcome?);
        let cpu_seconds = server.usage().cpu().as_secs_f64();
        server.terminate()?;
        let exit = server.wait(EXIT_LIMIT).await?;
        let payloads = Payloads::new(plan.run, plan.payload_size);
        Reader::new(Store::Dir(folder("objects")), payloads).read(&mut done.ledger).await?;
        let tally = &done.tally;
        Ok(Besieged {
            attack,
            outcome,
            accepted: tally.accepted.summary(),
            not_accepted: tally.refused.count() + tally.unanswered + tally.unsent + tally.connect_errors,
            ledger: done.ledger.totals(),
            peak,
            before,
            cpu_seconds,
            code: exit.code,
        })
    }
}

impl Besieged {
    /// The heads of the columns of its `Display`, and the line below them.
    pub const HEAD: &str = "\
| attack | p50 | p99 | p99.9 | not accepted | lost | memory | open files | CPU | connections, ended | sent | exit |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

    /// Whether something that was promised did not hold.
    pub fn failed(&self) -> bool {
        self.ledger.failed() || self.code != Some(0) || self.not_accepted > 0
    }
}

impl fmt::Display for Besieged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p99_9] = [self.accepted.p50, self.accepted.p99, self.accepted.p99_9].map(show_micros);
        let name = self.attack.map_or_else(|| "none".to_owned(), Attack::name);
        let (from, to) = (show_size(self.before.resident), show_size(self.peak.resident));
        let code = self.code.map_or_else(|| "killed".to_owned(), |code| code.to_string());
        write!(f, "| {name} | {p50} | {p99} | {p99_9} | {} | {} ", self.not_accepted, self.ledger.lost)?;
        write!(f, "| {from} to {to} | {} | {:.1} s ", self.peak.files, self.cpu_seconds)?;
        let Outcome { connected, ended, sent, .. } = self.outcome;
        write!(f, "| {connected}, {ended} | {} | {code} |", show_size(sent))
    }
}
