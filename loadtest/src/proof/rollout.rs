//! The proof of a ramp-up: a server forwards a rising and then falling share of its requests to another version.
//!
//! Two servers, each with a spool of its own, share a store. The load goes to the first one. Its `ROLLOUT_FILE` is rewritten under
//! load, from 0 to 100 percent and back; at 50 percent the other server is killed and started again. A request that failed is a
//! finding, except for a 503 while the other server is killed: the outcome of a request that was on its way is unknown, and the
//! client sends it again. In the steps before and after it, no request may fail, the guard may not stop forwarding, and the
//! number of forwarded requests has to fit the percentage.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::forwarding::{Counts, Forwarding};
use super::phase::{Client, Mix, Phase, Tolerance};
use super::store::ProofStore;
use super::testbed::{Testbed, between};
use super::{Setup, Verdict};
use crate::load::Control;
use crate::report::row;
use crate::server::Server;

/// The percentages, and whether the other server is killed at them.
const STEPS: [(u8, bool); 10] = [
    (0, false),
    (1, false),
    (10, false),
    (50, false),
    (50, true),
    (100, false),
    (50, false),
    (10, false),
    (1, false),
    (0, false),
];

/// The load has begun when the percentage is changed.
const BEFORE_CHANGE: Duration = Duration::from_secs(1);

/// A proof of a ramp-up. The rounds are kills of the other server.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ramp {
    pub setup: Setup,
}

/// A step: what the first server has counted in it, and what the clients were told.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Step {
    pub percent: u8,
    /// Since the percentage is in force.
    pub counts: Counts,
    /// While the percentage was changed, if it was.
    pub change: Option<Phase>,
    /// Since the percentage is in force.
    pub phase: Phase,
}

/// The steps of a ramp-up.
#[derive(Debug, Clone, Serialize)]
pub struct RampDetails {
    /// Those that were done.
    pub steps: Vec<Step>,
}

/// The servers.
struct Pair<'a> {
    testbed: &'a Testbed<'a>,
    forwarding: Forwarding,
    /// In force.
    percent: u8,
    first: Server,
    /// `None` while it is away.
    other: Option<Server>,
    other_env: Vec<(String, String)>,
    times: fastrand::Rng,
}

impl Ramp {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<Verdict<RampDetails>> {
        let own = ["ROLLOUT_FILE", "TRUSTED_PROXIES"];
        let store = async |_: &_| ProofStore::memory().await;
        let testbed = Testbed::set_up("rollout", &self.setup, &own, store, control, &say).await?;
        let mut pair = Pair::start(&testbed).await?;
        let mut mix = Mix::new(Client::all(&self.setup.plan, &pair.first.addr()?.into(), None));
        let mut steps = Vec::new();
        for (percent, with_kills) in STEPS {
            if testbed.is_over() {
                break;
            }
            let name = format!("{percent}%{}", if with_kills { ", with kills" } else { "" });
            match Box::pin(pair.step(&mut mix, &name, percent, with_kills)).await {
                Ok(step) => steps.push(step),
                Err(wrong) => {
                    testbed.broken(format!("{name}: {wrong:#}"));
                    break;
                }
            }
        }
        testbed.drain().await?;
        testbed.stop("first", pair.first).await?;
        if let Some(other) = pair.other {
            testbed.stop("other", other).await?;
        }
        let mut ledger = mix.into_ledger();
        ledger.failed_may_stay();
        testbed.conclude(ledger, RampDetails { steps }).await
    }
}

impl<'a> Pair<'a> {
    async fn start(testbed: &'a Testbed<'a>) -> anyhow::Result<Self> {
        let env = [("SPOOL_DIR", &*testbed.spool("spool-other")), ("TRUSTED_PROXIES", "127.0.0.1")];
        let mut other_env = testbed.env(&env);
        let other = testbed.start("other", &other_env).await?;
        let addr = other.addr()?;
        // It is started again where it was.
        other_env.push(("LISTEN_ADDR".to_owned(), addr.to_string()));
        let percent = 0;
        let forwarding = Forwarding::new(testbed, addr, percent)?;
        let env = [("SPOOL_DIR", &*testbed.spool("spool-first")), ("ROLLOUT_FILE", &*forwarding.file())];
        let first = testbed.start("first", &testbed.env(&env)).await?;
        let times = fastrand::Rng::with_seed(testbed.setup.seed);
        Ok(Self { testbed, forwarding, percent, first, other: Some(other), other_env, times })
    }

    /// A step. The requests of its second phase are all under its percentage, so they can be compared with the counts.
    async fn step(&mut self, mix: &mut Mix, name: &str, percent: u8, with_kills: bool) -> anyhow::Result<Step> {
        let testbed = self.testbed;
        let change = match percent == self.percent {
            true => None,
            false => Some(self.change(mix, name, percent).await?),
        };
        let before = Counts::of(&self.first, testbed.setup.settle).await?;
        let tolerance = if with_kills { Tolerance::Unavailable } else { Tolerance::Nothing };
        let events = async {
            if with_kills {
                self.kills(percent).await?;
            }
            testbed.pause(testbed.setup.span).await;
            anyhow::Ok(())
        };
        let (phase, killed) = Box::pin(mix.during(testbed, name, tolerance, events)).await?;
        killed?;
        let counts = Counts::of(&self.first, testbed.setup.settle).await?.since(&before);
        let wrong = match with_kills {
            // A step that was cut short has too few requests.
            _ if testbed.is_over() => Vec::new(),
            true => counts.wrong_with_kills().into_iter().collect(),
            false => counts.wrong(percent, phase.answered()),
        };
        wrong.iter().for_each(|wrong| testbed.broken(format!("{name}: {wrong}")));
        Ok(Step { percent, counts, change, phase })
    }

    /// Changes the percentage under load.
    async fn change(&mut self, mix: &mut Mix, name: &str, percent: u8) -> anyhow::Result<Phase> {
        let testbed = self.testbed;
        let changing = async {
            testbed.pause(BEFORE_CHANGE).await;
            self.forwarding.put_in_force(&self.first, percent, testbed.setup.settle).await
        };
        let to = format!("to {name}");
        let (phase, changed) = Box::pin(mix.during(testbed, &to, Tolerance::Nothing, changing)).await?;
        changed?;
        self.percent = percent;
        Ok(phase)
    }

    /// Kills the other server again and again, and starts it again.
    async fn kills(&mut self, percent: u8) -> anyhow::Result<()> {
        let testbed = self.testbed;
        let Setup { rounds, life, .. } = testbed.setup;
        for round in 1..=*rounds {
            let [alive, away] = [(); 2].map(|()| between(&mut self.times, Duration::ZERO, *life.end()));
            testbed.pause(alive).await;
            self.restart_other(away).await.with_context(|| format!("kill {round} of {rounds}"))?;
            // The guard may have stopped it, and a change starts it again: the next kill has to find forwarded requests too.
            for percent in [0, percent] {
                self.forwarding.put_in_force(&self.first, percent, testbed.setup.settle).await?;
            }
        }
        Ok(())
    }

    /// Kills the other server, and starts it again after `away`.
    async fn restart_other(&mut self, away: Duration) -> anyhow::Result<()> {
        self.testbed.kill(self.other.take().context("the other server is away")?).await?;
        tokio::time::sleep(away).await;
        self.other = Some(self.testbed.start_again("other", &self.other_env).await?);
        Ok(())
    }
}

impl fmt::Display for RampDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { counts, change, phase, .. } in &self.steps {
            if let Some(change) = change.as_ref().filter(|change| change.findings > 0) {
                write!(f, "\n{change}")?;
            }
            write!(f, "\n{phase}")?;
            let Counts { passed, taken_here, unknown, tripped } = counts;
            let tripped = if tripped.is_some() { ", stopped by the guard" } else { "" };
            row(f, "forwarded", &format!("{passed}, taken here: {taken_here}, unknown: {unknown}{tripped}"))?;
        }
        writeln!(f)
    }
}
