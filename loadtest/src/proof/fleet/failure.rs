//! What fails in a fleet.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// A failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// A front end is killed, and started again.
    FrontKilled,
    /// A front end is killed and its folder deleted, as with the machine that it was on.
    FrontLost,
    /// A front end is paused.
    FrontPaused,
    /// A worker is killed, and started again.
    WorkerKilled,
    /// A worker is paused.
    WorkerPaused,
    /// A node of the broker is killed, and started again.
    NodeKilled,
    /// A node of the broker is paused.
    NodePaused,
    /// Every call of S3 fails.
    StoreAway,
    /// All nodes of the broker are killed at once. What they wrote and did not sync stays in the page cache.
    AllNodesKilled,
    /// The power of all nodes of the broker is cut at once. What they did not sync is lost. Needs root.
    PowerCut,
    /// The network of a front end is down. Needs root, as the next three.
    FrontCutOff,
    /// The network of a worker is down.
    WorkerCutOff,
    /// The network of a node of the broker is down.
    NodeCutOff,
    /// The link between a node of the broker and another process is down. Both reach all others.
    LinkCut,
}

impl Failure {
    /// Those that happen unless others are asked for.
    pub const USUAL: [Self; 8] = [
        Self::FrontKilled,
        Self::NodeKilled,
        Self::WorkerKilled,
        Self::StoreAway,
        Self::FrontLost,
        Self::NodePaused,
        Self::WorkerPaused,
        Self::FrontPaused,
    ];

    /// The name in the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether the clients of the front end that it happens to may get no response.
    pub(super) fn cuts_off(self) -> bool {
        match self {
            Self::FrontKilled | Self::FrontLost | Self::FrontPaused | Self::FrontCutOff => true,
            Self::WorkerKilled
            | Self::WorkerPaused
            | Self::NodeKilled
            | Self::NodePaused
            | Self::StoreAway
            | Self::AllNodesKilled
            | Self::PowerCut
            | Self::WorkerCutOff
            | Self::NodeCutOff
            | Self::LinkCut => false,
        }
    }

    /// Whether each process needs a host of its own.
    pub(super) fn is_of_network(self) -> bool {
        matches!(self, Self::FrontCutOff | Self::WorkerCutOff | Self::NodeCutOff | Self::LinkCut)
    }

    /// A time in which the rest of the fleet gives up on the process that is paused or cut off: the segments of a front end are ended by a worker,
    /// those of a worker go to another one.
    pub(super) fn long_pause(self) -> Option<Duration> {
        match self {
            Self::FrontPaused | Self::FrontCutOff => Some(Duration::from_secs(30)),
            Self::WorkerPaused | Self::WorkerCutOff => Some(Duration::from_secs(40)),
            _ => None,
        }
    }
}

/// The failures of a proof: all of them in turn, in a random order each time.
#[derive(Debug)]
pub(super) struct Failures {
    all: Vec<Failure>,
    next: Vec<Failure>,
}

impl Failures {
    pub(super) fn new(all: Vec<Failure>) -> Self {
        Self { all, next: Vec::new() }
    }

    pub(super) fn next(&mut self, times: &mut fastrand::Rng) -> Option<Failure> {
        if self.next.is_empty() {
            self.next.clone_from(&self.all);
            times.shuffle(&mut self.next);
        }
        self.next.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_happens_once_before_any_happens_again() {
        let mut times = fastrand::Rng::with_seed(1);
        let mut failures = Failures::new(Failure::USUAL.to_vec());
        for _ in 0..3 {
            let mut names: Vec<_> =
                Failure::USUAL.iter().filter_map(|_| failures.next(&mut times)).map(Failure::name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), Failure::USUAL.len());
        }
        assert_eq!(Failures::new(Vec::new()).next(&mut times), None);
    }
}
