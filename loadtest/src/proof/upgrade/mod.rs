//! The proof of live upgrades: new processes receive the listeners of old ones, under a load of all kinds of clients.
//!
//! Two servers, one of them with TLS, share a spool and a store. In the first phase nothing happens, so that its latency can be
//! compared; then new processes receive the listeners, in a row; then new processes exit before they are ready; then old or new
//! processes are killed during the handover; at the end a server that [forwards requests](forward) is upgraded. Except with the
//! kills, a request that failed is a finding: one without a response, with one other than 2xx, or a connection that could not
//! be made. A request that the server did not process, and says so, is sent again by any client: a pipelined one after a response
//! with `Connection: close`, and a stream above the last one of a GOAWAY.

mod forward;
mod lineage;

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

use self::lineage::Lineage;
use super::phase::{Client, Mix, Phase, Tolerance};
use super::store::ProofStore;
use super::testbed::Testbed;
use super::{Setup, Verdict};
use crate::client::{SelfSigned, Target};
use crate::load::Control;
use crate::report::row;

/// Settings that the proof itself sets.
const OWN: [&str; 5] = ["HANDOVER_SOCKET", "TLS_CERT", "TLS_KEY", "ROLLOUT_FILE", "TRUSTED_PROXIES"];

/// A proof of live upgrades. The rounds are upgrades in a row, and then as many that fail.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Upgrade {
    pub setup: Setup,
    /// Kills of the old or the new process.
    pub kill_rounds: u32,
    /// Stops the old process before it starts the new one, without a handover: the verdict of this has to be that it failed.
    pub restart: bool,
}

/// What happened in a proof of live upgrades.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct UpgradeDetails {
    pub kill_rounds: u32,
    pub phases: Vec<Phase>,
    pub handovers: Handovers,
}

/// What was observed of the handovers.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Handovers {
    pub upgrades: u32,
    pub failed_upgrades: u32,
    /// Kills of a new process that had the listeners, so that none was left.
    pub killed_last: u32,
    /// Starts without a handover, beside the first.
    pub fresh_starts: u32,
    /// The longest time from the start of a new process until it had the listeners, in seconds.
    pub longest_upgrade: f64,
}

impl Upgrade {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<Verdict<UpgradeDetails>> {
        let store = async |_: &_| ProofStore::memory().await;
        let testbed = Testbed::set_up("upgrade", &self.setup, &OWN, store, control, &say).await?;
        let handovers = RefCell::default();
        let Setup { plan, rounds, span, .. } = &self.setup;
        let certificate = SelfSigned::generate(&testbed.path(""))?;
        let any = Target::from(plan.target.addr);
        let secure = any.clone().with_tls(SelfSigned::HOST, Some(&certificate.cert))?;
        let spool = testbed.spool("spool");
        let spool = [("SPOOL_DIR", &*spool)];
        let tls = certificate.env();
        let tls: Vec<_> = tls.iter().map(|(name, value)| (&**name, &**value)).chain(spool).collect();
        let mut plain = Lineage::start(&self, &testbed, &handovers, "plain", &spool, any).await?;
        let mut tls = Lineage::start(&self, &testbed, &handovers, "tls", &tls, secure).await?;

        let mut mix = Mix::new(Client::all(plan, &plain.target, Some(&tls.target)));
        let mut phases = Vec::new();
        phases.push(mix.during(&testbed, "without upgrades", Tolerance::Nothing, testbed.pause(*span)).await?.0);
        let upgrades = async { tokio::join!(plain.upgrades(*rounds), tls.upgrades(*rounds)) };
        phases.push(Box::pin(mix.during(&testbed, "upgrades", Tolerance::Nothing, upgrades)).await?.0);
        if !self.restart {
            let failed = async { tokio::join!(plain.failed_upgrades(), tls.failed_upgrades()) };
            phases.push(Box::pin(mix.during(&testbed, "failed upgrades", Tolerance::Nothing, failed)).await?.0);
            if self.kill_rounds > 0 {
                let kills = async { tokio::join!(plain.kills(), tls.kills()) };
                phases.push(Box::pin(mix.during(&testbed, "kills", Tolerance::Everything, kills)).await?.0);
            }
            phases.push(Box::pin(forward::upgrades(&self, &testbed, &handovers, &mut mix)).await?);
        }

        testbed.drain().await?;
        testbed.stop("plain", plain.server).await?;
        testbed.stop("tls", tls.server).await?;
        let mut ledger = mix.into_ledger();
        ledger.failed_may_stay();
        let details = UpgradeDetails { kill_rounds: self.kill_rounds, phases, handovers: handovers.take() };
        testbed.conclude(ledger, details).await
    }
}

impl fmt::Display for UpgradeDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.phases {
            write!(f, "\n{phase}")?;
        }
        let Handovers { upgrades, failed_upgrades, killed_last, fresh_starts, longest_upgrade } = &self.handovers;
        writeln!(f)?;
        let failed = format!("{failed_upgrades} by processes that exited before they were ready");
        row(f, "handovers", &format!("{upgrades} done, {failed}"))?;
        row(f, "longest handover", &format!("{longest_upgrade:.2} s"))?;
        let started = format!("{fresh_starts} without a handover");
        row(
            f,
            "kills",
            &format!("{} rounds, {killed_last} after it received the listeners; {started}", self.kill_rounds),
        )
    }
}
