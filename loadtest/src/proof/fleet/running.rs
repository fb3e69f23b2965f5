//! The processes of a fleet, and what happens to them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;

use super::disk::Disk;
use super::member::{self, Member};
use super::node::Node;
use super::{Failure, Fleet};
use crate::proof::testbed::Testbed;
use crate::s3::{Fault, FaultPlan};

/// The streams of the broker: of segments, and of those that wait for a worker.
const STREAM: &str = "fleet";
const WORK_STREAM: &str = "fleet-work";
const STREAM_LIMIT: &str = "1GiB";

/// How often the nodes are asked for their streams.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Every other pause of a kind is long.
const LONG_PAUSE_EVERY: u32 = 2;

/// The processes of a fleet.
pub(super) struct Running<'a> {
    fleet: &'a Fleet,
    testbed: &'a Testbed<'a>,
    nodes: Vec<Node>,
    fronts: Vec<Member>,
    workers: Vec<Member>,
    pub(super) times: fastrand::Rng,
    pauses: u32,
}

impl<'a> Running<'a> {
    /// Starts all of them.
    pub(super) async fn start(fleet: &'a Fleet, testbed: &'a Testbed<'a>) -> anyhow::Result<Self> {
        let mut nodes = Node::cluster(fleet, testbed)?;
        start_all(&mut nodes, testbed).await?;
        let url = nodes.iter().map(Node::url).collect::<Vec<_>>().join(",");
        let replicas = fleet.nodes.to_string();
        let own = |role| {
            [
                ("ROLE", role),
                ("BROKER_URL", &*url),
                ("BROKER_REPLICAS", &*replicas),
                ("BROKER_STREAM", STREAM),
                ("BROKER_MAX_BYTES", STREAM_LIMIT),
            ]
        };
        let (mut fronts, mut workers) = (Vec::new(), Vec::new());
        for (members, role, count) in [(&mut fronts, "front", fleet.fronts), (&mut workers, "worker", fleet.workers)] {
            for index in 1..=count {
                let mut member = Member::start(testbed, format!("{role}-{index}"), &own(role)).await?;
                member.ready(testbed.setup.settle).await?;
                members.push(member);
            }
        }
        let times = fastrand::Rng::with_seed(testbed.setup.seed);
        Ok(Self { fleet, testbed, nodes, fronts, workers, times, pauses: 0 })
    }

    /// The names and addresses of the front ends.
    pub(super) fn fronts(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.fronts.iter().map(|front| (front.name.as_str(), front.addr))
    }

    /// The index of the process that a failure happens to.
    pub(super) fn target(&mut self, failure: Failure) -> usize {
        let count = match failure {
            Failure::FrontKilled | Failure::FrontLost | Failure::FrontPaused | Failure::FrontCutOff => {
                self.fronts.len()
            }
            Failure::WorkerKilled | Failure::WorkerPaused | Failure::WorkerCutOff => self.workers.len(),
            Failure::NodeKilled | Failure::NodePaused | Failure::NodeCutOff => self.nodes.len(),
            Failure::LinkCut => self.nodes.len() * (self.fleet.names().count() - 1),
            Failure::StoreAway | Failure::AllNodesKilled | Failure::PowerCut => 1,
        };
        self.times.usize(..count)
    }

    pub(super) fn name_of(&self, failure: Failure, target: usize) -> String {
        match failure {
            Failure::FrontKilled | Failure::FrontLost | Failure::FrontPaused | Failure::FrontCutOff => {
                self.fronts[target].name.clone()
            }
            Failure::WorkerKilled | Failure::WorkerPaused | Failure::WorkerCutOff => self.workers[target].name.clone(),
            Failure::NodeKilled | Failure::NodePaused | Failure::NodeCutOff => self.nodes[target].name.clone(),
            Failure::LinkCut => self.ends_of(target).join(" and "),
            Failure::StoreAway | Failure::AllNodesKilled | Failure::PowerCut => String::new(),
        }
    }

    /// The ends of a link: a node, and any other process.
    fn ends_of(&self, link: usize) -> [String; 2] {
        let node = link % self.nodes.len();
        let mut others: Vec<_> = self.fleet.names().collect();
        [others.remove(node), others.swap_remove(link / self.nodes.len())]
    }

    /// Something fails for a time. Returns how long it took from then until the fleet was as before.
    pub(super) async fn round(&mut self, failure: Failure, target: usize) -> anyhow::Result<Duration> {
        let testbed = self.testbed;
        let [before, mut away, after] = [(); 3].map(|()| testbed.setup.life(&mut self.times));
        testbed.pause(before).await;
        if let Some(long) = failure.long_pause() {
            self.pauses += 1;
            if self.pauses.is_multiple_of(LONG_PAUSE_EVERY) {
                away = long;
            }
        }
        let back = match failure {
            Failure::FrontKilled | Failure::FrontLost => {
                kill(&mut self.fronts[target], testbed, failure == Failure::FrontLost, away).await?
            }
            Failure::WorkerKilled => kill(&mut self.workers[target], testbed, false, away).await?,
            Failure::FrontPaused | Failure::WorkerPaused => {
                let members = if failure == Failure::FrontPaused { &mut self.fronts } else { &mut self.workers };
                member::pause(members[target].server.as_ref().context("it is away")?, away).await?;
                let back = Instant::now();
                members[target].ready(testbed.setup.settle).await?;
                back
            }
            Failure::NodeKilled => {
                let node = &mut self.nodes[target];
                testbed.kill(node.server.take().context("it is away")?).await?;
                tokio::time::sleep(away).await;
                let back = Instant::now();
                node.healthy(testbed.setup.settle).await?;
                back
            }
            Failure::NodePaused => {
                let node = &mut self.nodes[target];
                member::pause(node.server.as_ref().context("it is away")?, away).await?;
                let back = Instant::now();
                node.healthy(testbed.setup.settle).await?;
                back
            }
            Failure::StoreAway => {
                testbed.store.set_faults(FaultPlan::always(Fault::SlowDown).on_every_call());
                tokio::time::sleep(away).await;
                testbed.store.set_faults(self.fleet.faults.clone());
                Instant::now()
            }
            Failure::FrontCutOff | Failure::WorkerCutOff | Failure::NodeCutOff | Failure::LinkCut => {
                let network = testbed.network.as_ref().context("there is no network")?;
                let cut = |is_cut| match failure {
                    Failure::LinkCut => {
                        let [one, other] = self.ends_of(target);
                        network.cut_link([&*one, &*other], is_cut)
                    }
                    _ => network.cut_off(&self.name_of(failure, target), is_cut),
                };
                cut(true)?;
                tokio::time::sleep(away).await;
                cut(false)?;
                let back = Instant::now();
                for node in &mut self.nodes {
                    node.healthy(testbed.setup.settle).await?;
                }
                back
            }
            Failure::AllNodesKilled | Failure::PowerCut => {
                for node in &self.nodes {
                    member::signal(node.server.as_ref().context("it is away")?, Signal::KILL)?;
                }
                let is_cut = failure == Failure::PowerCut;
                for node in &mut self.nodes {
                    node.server.take().context("it is away")?.kill().await?;
                    if is_cut {
                        node.disk.as_ref().context("it has no disk")?.cut_power()?;
                    }
                }
                tokio::time::sleep(away).await;
                if is_cut {
                    self.nodes.iter().filter_map(|node| node.disk.as_ref()).try_for_each(Disk::restore)?;
                }
                let back = Instant::now();
                start_all(&mut self.nodes, testbed).await?;
                back
            }
        };
        // Also of those that it did not happen to.
        for member in self.fronts.iter_mut().chain(&mut self.workers) {
            member.ready(testbed.setup.settle).await?;
        }
        let recovery = back.elapsed();
        testbed.pause(after).await;
        Ok(recovery)
    }

    /// After the load: stops the front ends, waits until the broker is empty, and stops everything. Returns how long it took.
    pub(super) async fn finish(self) -> anyhow::Result<Option<f64>> {
        let Self { testbed, mut nodes, mut fronts, mut workers, .. } = self;
        // After a round that failed some may be away.
        for node in &mut nodes {
            node.healthy(testbed.setup.settle).await?;
        }
        for member in fronts.iter_mut().chain(&mut workers) {
            if member.server.is_none() {
                member.start_again(testbed).await?;
            }
        }
        let start = Instant::now();
        for Member { name, server, .. } in fronts {
            testbed.stop(&name, server.context("a front end is away")?).await?;
        }
        let mut empty_in = None;
        let mut last = String::new();
        while start.elapsed() < testbed.setup.settle {
            match left(&nodes).await {
                Ok(None) => {
                    empty_in = Some(start.elapsed().as_secs_f64());
                    break;
                }
                Ok(Some(left)) => last = left,
                Err(wrong) => last = format!("{wrong:#}"),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        if empty_in.is_none() {
            testbed.broken(format!("the broker is not empty {:?} after the load's end: {last}", testbed.setup.settle));
        }
        replicas_with_frames(&nodes).await.into_iter().for_each(|found| testbed.remark(found));
        for Member { name, server, .. } in workers {
            testbed.stop(&name, server.context("a worker is away")?).await?;
        }
        testbed.drain().await?;
        for node in nodes {
            node.server.context("a node is away")?.kill().await?;
        }
        Ok(empty_in)
    }
}

/// Starts nodes at the same time: one alone has no majority.
async fn start_all(nodes: &mut [Node], testbed: &Testbed<'_>) -> anyhow::Result<()> {
    for node in &mut *nodes {
        node.spawn().await?;
    }
    for node in nodes {
        node.healthy(testbed.setup.settle).await?;
    }
    Ok(())
}

/// Kills a member for a time. Returns when it was started again.
async fn kill(member: &mut Member, testbed: &Testbed<'_>, with_disk: bool, away: Duration) -> anyhow::Result<Instant> {
    member.kill(testbed, with_disk).await?;
    tokio::time::sleep(away).await;
    let back = Instant::now();
    member.start_again(testbed).await?;
    Ok(back)
}

/// Segments to upload, or frames, that the leaders of the streams still hold.
async fn left(nodes: &[Node]) -> anyhow::Result<Option<String>> {
    let (mut work_is_empty, mut has_only_ends) = (None, None);
    for node in nodes {
        let (work, leads_work) = node.stream(WORK_STREAM).await?.context("no work queue")?;
        let (segments, leads_segments) = node.stream(STREAM).await?.context("no stream of segments")?;
        if leads_work {
            work_is_empty = Some(work.messages == 0);
        }
        if leads_segments {
            has_only_ends = Some(segments.has_only_ends());
        }
        if (leads_work && work.messages > 0) || (leads_segments && !segments.has_only_ends()) {
            return Ok(Some(format!("{} has {segments:?}, and {} segments to upload", node.name, work.messages)));
        }
    }
    match (work_is_empty, has_only_ends) {
        (Some(true), Some(true)) => Ok(None),
        _ => Ok(Some("a stream has no leader".to_owned())),
    }
}

/// Replicas that hold frames which the leader does not: what a purge has removed may appear again on a node that was killed.
async fn replicas_with_frames(nodes: &[Node]) -> Vec<String> {
    let mut found = Vec::new();
    for node in nodes {
        if let Ok(Some((state, false))) = node.stream(STREAM).await
            && !state.has_only_ends()
        {
            found.push(format!("{} has frames of stored segments that the leader has not: {state:?}", node.name));
        }
    }
    found
}
