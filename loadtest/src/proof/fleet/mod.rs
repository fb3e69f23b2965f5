//! The proof of a fleet: front ends and workers, and a broker of several nodes.
//!
//! Each front end gets its share of the load. In each round one process is killed or paused, or S3 is away, and the round ends when
//! the fleet is as before; so there is always a majority of the nodes, unless all of them are killed. At the end all processes run, and
//! the broker has to become empty: everything accepted is stored, and stored once. A request may fail with a 503 while something
//! fails, and a front end that is killed or paused may leave requests without a response; anything else is a finding.

mod disk;
mod failure;
mod member;
mod node;
mod running;
mod tally;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use self::failure::Failure;
use self::failure::Failures;
use self::running::Running;
pub use self::tally::Tally;
use super::network::Network;
use super::phase::{Client, Mix, Tolerance};
use super::store::ProofStore;
use super::testbed::Testbed;
use super::{Setup, Verdict};
use crate::load::{Control, Plan, Rate};
use crate::report::row;
use crate::s3::FaultPlan;

/// Settings that this proof sets.
const OWN: [&str; 5] = ["ROLE", "BROKER_URL", "BROKER_REPLICAS", "BROKER_STREAM", "BROKER_MAX_BYTES"];

/// A proof of a fleet. The rounds are failures.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Fleet {
    pub setup: Setup,
    /// The program of the broker's nodes, a `nats-server`.
    pub nats: PathBuf,
    /// 1, 3 or 5.
    pub nodes: u32,
    pub fronts: u32,
    pub workers: u32,
    /// Those that happen.
    pub failures: Vec<Failure>,
    /// Leaves `sync_interval` of the nodes at its default.
    pub no_sync: bool,
    /// Rounds go on for so long; `None` is until all are done.
    pub duration: Option<Duration>,
    /// Faults of S3 while it is not away.
    pub faults: FaultPlan,
}

/// The rounds of a fleet by failure.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FleetDetails {
    pub nodes: u32,
    pub fronts: u32,
    pub workers: u32,
    pub no_sync: bool,
    pub tallies: Vec<Tally>,
    /// From the end of the load until no node of the broker had a frame, in seconds.
    pub broker_empty_in: Option<f64>,
}

impl Fleet {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(self, control: Control, say: impl Fn(&str)) -> anyhow::Result<Verdict<FleetDetails>> {
        let is_networked = self.failures.iter().any(|failure| failure.is_of_network());
        let network = is_networked.then(|| Network::set_up(self.names().collect())).transpose()?;
        let address = network.as_ref().map_or(Ipv4Addr::LOCALHOST, Network::own_address);
        let store = async |_: &_| ProofStore::memory_on(address).await;
        let mut testbed = Testbed::set_up("fleet", &self.setup, &OWN, store, control, &say).await?;
        testbed.network = network;
        testbed.store.set_faults(self.faults.clone());
        let mut running = Box::pin(Running::start(&self, &testbed)).await?;
        let mut mix = Mix::new(self.clients(&running));
        let mut tallies = vec![Tally::new(None)];
        tallies.extend(self.failures.iter().map(|failure| Tally::new(Some(*failure))));
        let done = Box::pin(self.rounds(&testbed, &mut running, &mut mix, &mut tallies)).await;
        if let Err(wrong) = done {
            testbed.broken(format!("{wrong:#}"));
        }
        testbed.store.set_faults(FaultPlan::none());
        let broker_empty_in = Box::pin(running.finish()).await.unwrap_or_else(|wrong| {
            testbed.broken(format!("{wrong:#}"));
            None
        });
        tallies.iter().filter_map(Tally::wrong).for_each(|wrong| testbed.broken(wrong));
        let Self { nodes, fronts, workers, no_sync, .. } = self;
        let mut ledger = mix.into_ledger();
        ledger.failed_may_stay();
        testbed.conclude(ledger, FleetDetails { nodes, fronts, workers, no_sync, tallies, broker_empty_in }).await
    }

    fn node_names(&self) -> impl Iterator<Item = String> {
        (1..=self.nodes).map(|index| format!("node-{index}"))
    }

    /// The names of all processes.
    fn names(&self) -> impl Iterator<Item = String> {
        let members = [("front", self.fronts), ("worker", self.workers)].into_iter();
        let members = members.flat_map(|(role, count)| (1..=count).map(move |index| format!("{role}-{index}")));
        self.node_names().chain(members)
    }

    /// A client for each front end.
    fn clients(&self, running: &Running<'_>) -> Vec<Client> {
        let plan = &self.setup.plan;
        let rate = Rate::steady(plan.rate.steady / f64::from(self.fronts));
        let connections = (plan.connections / self.fronts).max(1);
        let client = |(name, addr): (&str, std::net::SocketAddr)| {
            Client::new(name, Plan { rate, connections, target: addr.into(), ..plan.clone() })
        };
        running.fronts().map(client).collect()
    }

    /// First nothing fails, then one thing after the other.
    async fn rounds(
        &self,
        testbed: &Testbed<'_>,
        running: &mut Running<'_>,
        mix: &mut Mix,
        tallies: &mut [Tally],
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let span = testbed.pause(self.setup.span);
        let (phase, ()) = Box::pin(mix.during(testbed, "nothing fails", Tolerance::Everything, span)).await?;
        tallies[0].add(&phase, None, Duration::ZERO);
        let mut failures = Failures::new(self.failures.clone());
        for round in 1.. {
            let is_done = self.duration.map_or(round > self.setup.rounds, |duration| start.elapsed() >= duration);
            if is_done || testbed.is_over() {
                break;
            }
            let Some(failure) = failures.next(&mut running.times) else { break };
            let target = running.target(failure);
            let name = format!("{round}: {} {}", failure.name(), running.name_of(failure, target));
            let happens = running.round(failure, target);
            let (phase, recovery) = Box::pin(mix.during(testbed, &name, Tolerance::Everything, happens)).await?;
            let cut_off = failure.cuts_off().then(|| running.name_of(failure, target));
            if let Some(tally) = tallies.iter_mut().find(|tally| tally.failure == Some(failure)) {
                tally.add(&phase, cut_off.as_deref(), recovery?);
            }
        }
        Ok(())
    }
}

impl fmt::Display for FleetDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, fronts, workers, no_sync, tallies, broker_empty_in } = self;
        let sync = if *no_sync { "2m, the default" } else { "always" };
        writeln!(f)?;
        row(f, "fleet", &format!("{nodes} nodes, {fronts} front ends, {workers} workers; sync_interval: {sync}"))?;
        tallies.iter().filter(|tally| tally.rounds > 0).try_for_each(|tally| tally.fmt(f))?;
        let empty = broker_empty_in.map_or("never".to_owned(), |seconds| format!("in {seconds:.1} s"));
        row(f, "broker empty", &empty)
    }
}
