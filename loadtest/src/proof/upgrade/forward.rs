//! Upgrades of a server that forwards half of its requests to another one.
//!
//! One kind of client waits for the store, which takes longer than a handover: whenever a new process receives the listeners, the old
//! one has forwarded requests in flight. They have to get their responses from it.

use std::cell::RefCell;
use std::time::Duration;

use super::lineage::Lineage;
use super::{Handovers, Upgrade};
use crate::client::Target;
use crate::load::{Plan, Rate};
use crate::proof::forwarding::{Counts, Forwarding};
use crate::proof::phase::{Client, Mix, Phase, Tolerance};
use crate::proof::testbed::Testbed;
use crate::s3::{Fault, FaultPlan};

/// The share of requests that are forwarded.
const PERCENT: u8 = 50;

/// The time of each PUT. A process that has handed over has 10 s for requests in flight, with the default settings.
const SLOW_STORE: Duration = Duration::from_secs(4);

/// Each takes as long as the slowest request.
const MAX_ROUNDS: u32 = 3;

/// Clients that wait for the store.
const WAITING: u32 = 16;

pub(super) async fn upgrades(
    proof: &Upgrade,
    testbed: &Testbed<'_>,
    handovers: &RefCell<Handovers>,
    mix: &mut Mix,
) -> anyhow::Result<Phase> {
    let plan = &proof.setup.plan;
    let env = [("SPOOL_DIR", &*testbed.spool("spool-other")), ("TRUSTED_PROXIES", "127.0.0.1")];
    let other = testbed.start("other", &testbed.env(&env)).await?;
    let forwarding = Forwarding::new(testbed, other.addr()?, PERCENT)?;
    let own = [("SPOOL_DIR", &*testbed.spool("spool-forwards")), ("ROLLOUT_FILE", &*forwarding.file())];
    let any = Target::from(plan.target.addr);
    let mut lineage = Lineage::start(proof, testbed, handovers, "forwards", &own, any).await?;

    testbed.store.set_faults(FaultPlan::always(Fault::Delay(SLOW_STORE)));
    let base = Plan { target: lineage.target.clone(), ..plan.clone() };
    let rate = Rate::steady(plan.rate.steady / 5.0);
    let separator = if plan.path.contains('?') { '&' } else { '?' };
    let path = format!("{}{separator}ack=stored", plan.path);
    mix.send_as(vec![
        Client::new("keep-alive", Plan { rate, connections: (plan.connections / 4).max(1), ..base.clone() }),
        Client::new("waits for the store", Plan { path, rate: Rate::UNPACED, connections: WAITING, ..base }),
    ]);
    let upgrades = async {
        testbed.pause(proof.setup.span).await;
        lineage.upgrades(proof.setup.rounds.min(MAX_ROUNDS)).await;
        testbed.pause(proof.setup.span).await;
    };
    let (phase, ()) = Box::pin(mix.during(testbed, "upgrades that forward", Tolerance::Nothing, upgrades)).await?;
    let wrong = match Counts::of(&lineage.server, proof.setup.settle).await {
        Ok(Counts { tripped: Some(why), .. }) => Some(format!("the guard has stopped forwarding: {why}")),
        Ok(counts) => counts.wrong_with_kills(),
        Err(wrong) => Some(format!("{wrong:#}")),
    };
    wrong.iter().for_each(|wrong| testbed.broken(format!("{}: {wrong}", phase.name)));
    testbed.store.set_faults(FaultPlan::none());
    testbed.drain().await?;
    testbed.stop("forwards", lineage.server).await?;
    testbed.stop("other", other).await?;
    Ok(phase)
}
