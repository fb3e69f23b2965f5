//! Proofs that acknowledged jobs survive what happens to servers, disks and stores.
//!
//! In a [`Proof`], an [`Event`] happens again and again under load: servers are started on one `SPOOL_DIR` and one store,
//! killed, stopped, replaced, or left without their store or their disk. At the end the last server has to drain the spool
//! and to exit with 0, and one ledger is made of everything that was sent.
//!
//! A proof fails if something accepted is lost, corrupt or stored twice; if anything at all is stored twice; if something
//! with a 4xx response is stored; if a segment, or `dead/`, is left in the spool; if a receipt does not lead to its object;
//! if a server does not start, exits by itself, or exits with another code than 0 when told to stop. Payloads without a
//! response or with a 5xx response may be stored or not.

mod command;
mod environment;
mod events;
mod fleet;
mod forwarding;
mod mirror;
mod network;
mod phase;
mod receipts;
mod rollout;
mod spool;
mod sqsd;
mod store;
mod testbed;
mod tmpfs;
mod upgrade;
mod verdict;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;
use tokio::sync::watch;

use self::environment::{Environment, LoadState};
pub use self::fleet::{Failure, Fleet, FleetDetails, Tally as FleetTally};
pub use self::forwarding::Counts;
pub use self::mirror::{Copies, MirrorDetails, Mirrored, Mirrors, OtherSide};
pub use self::phase::{ClientPhase, Phase, Tolerance};
pub use self::receipts::Jobs;
pub use self::rollout::{Ramp, RampDetails, Step};
pub use self::spool::SpoolContents;
pub use self::sqsd::{Counts as MessageCounts, DaemonSettings, Told, WorkerTier, WorkerTierVerdict};
pub use self::testbed::{Observed, Setup};
pub use self::upgrade::{Handovers, Upgrade, UpgradeDetails};
pub use self::verdict::Verdict;
use crate::client::Target;
use crate::load::{self, Control, Done, Quantiles, Receipts};
use crate::report::{quantiles, row};
use crate::s3::FaultPlan;
use crate::server::Server;
use crate::units::show_counts;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The server is killed at random times, and started again.
    Kill,
    /// The store is away for a time, in one way after the other.
    Outage,
    /// Every PUT takes long.
    SlowStore,
    /// The server is told to stop at random times, and started again.
    Stop,
    /// The store is away until the spool is full, and comes back; in every other round the server is killed and started
    /// again in between.
    DiskFull,
    /// A second server replaces the first on the same spool: while it serves, while it drains, as it is killed.
    Takeover,
}

impl Event {
    /// The name in the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The default number of rounds.
    pub fn rounds(self) -> u32 {
        match self {
            Self::Kill => 20,
            Self::Stop => 10,
            Self::Takeover => 6,
            Self::Outage => 3,
            Self::DiskFull => 2,
            Self::SlowStore => 1,
        }
    }
}

/// A proof.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Proof {
    pub event: Event,
    pub setup: Setup,
    pub in_process_s3: bool,
    pub faults: FaultPlan,
    /// The bytes that [`Event::DiskFull`] leaves for the spool.
    pub disk_bytes: usize,
    /// Whether that is the size of a file system (a tmpfs, if one can be mounted) and not `SPOOL_MAX_BYTES` alone.
    pub real_disk: bool,
    pub receipts: usize,
}

/// What the clients of a [`Proof`] were told.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct EventDetails {
    pub requests_per_second: f64,
    /// Latency of accepted requests, from when they were due, including the time without a server.
    pub accepted: Quantiles,
    pub statuses: BTreeMap<u16, u64>,
    pub unanswered: u64,
    pub jobs: Jobs,
}

impl Proof {
    /// Carries it out, and reports what happens to `say`.
    /// Errors: it could not be set up, or the store could not be read. What a server does wrong is in the verdict.
    pub async fn run(mut self, control: Control, say: impl Fn(&str)) -> anyhow::Result<Verdict<EventDetails>> {
        self.setup.plan.duration = None;
        self.setup.plan.requests = None;
        let receipts = Arc::new(Receipts::new(self.receipts));
        let control = Control { receipts: Some(Arc::clone(&receipts)), ..control };
        let state = watch::Sender::new(LoadState::default());
        let mut environment = Environment::set_up(&self, control.clone(), state.subscribe(), &say).await?;
        // A program that does not start the first time is an error and not a finding.
        let first = environment.start().await?;

        let load = load::run(self.setup.plan.clone(), control.clone(), |progress| {
            state.send_modify(|state| state.update(progress));
        });
        let events = async {
            let last = Box::pin(events::run(&mut environment, first)).await;
            control.end.cancel();
            last
        };
        let (done, last) = tokio::join!(Box::pin(load), events);
        let mut done = done?;
        let jobs = self.finish(&mut environment, last, receipts.take()).await.unwrap_or_else(|wrong| {
            environment.testbed.broken(format!("{wrong:#}"));
            Jobs::default()
        });
        done.ledger.failed_may_stay();
        let details = EventDetails::new(&done, jobs);
        environment.testbed.conclude(done.ledger, details).await
    }

    /// Lets the last server drain the spool, looks up the receipts, and stops it.
    async fn finish(
        &self,
        environment: &mut Environment<'_>,
        last: anyhow::Result<Server>,
        receipts: Vec<Vec<u8>>,
    ) -> anyhow::Result<Jobs> {
        let mut server = match last {
            Ok(server) => server,
            // Another one may succeed.
            Err(wrong) => {
                environment.testbed.broken(format!("{wrong:#}"));
                environment.store_back().await?;
                environment.start().await?
            }
        };
        environment.drain(&mut server).await?;
        let Setup { plan, settle, .. } = &self.setup;
        let jobs = Jobs::look_up(&Target::from(server.addr()?), &receipts, plan, *settle).await;
        environment.stop(server).await?;
        jobs.wrong.iter().for_each(|wrong| environment.testbed.broken(wrong));
        if jobs.wrong.is_empty() && jobs.stored < jobs.asked {
            environment.testbed.broken("receipts do not lead to objects");
        }
        Ok(jobs)
    }
}

impl EventDetails {
    fn new(done: &Done, jobs: Jobs) -> Self {
        let tally = &done.tally;
        let sent = (tally.answered() + tally.unanswered) as f64;
        Self {
            requests_per_second: sent / done.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            accepted: tally.accepted.summary(),
            statuses: tally.statuses.clone(),
            unanswered: tally.unanswered,
            jobs,
        }
    }
}

impl fmt::Display for EventDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses = format!("{}, unanswered: {}", show_counts(&self.statuses), self.unanswered);
        writeln!(f)?;
        row(f, "requests by status", &statuses)?;
        row(f, "requests sent", &format!("{:.0}/s", self.requests_per_second))?;
        row(f, "latency accepted", &quantiles(&self.accepted))?;
        row(f, "receipts", &format!("{} of {} lead to their objects", self.jobs.stored, self.jobs.asked))
    }
}
