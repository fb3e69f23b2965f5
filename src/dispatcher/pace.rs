//! When the next commit is worth making.
//!
//! A commit costs nearly the same however many jobs it serves: a call to the disk, wake-ups, a frame of its own for the
//! codec. So while jobs come fast, but not so fast that they gather by themselves during a commit, the dispatcher rests
//! before the next one until there is a crowd to serve. A lone request never waits for company, and neither do senders who
//! all wait for an answer before they send again: with half of the connections waiting, nobody else may come.

use std::time::{Duration, Instant};

/// A rest takes no longer.
pub(super) const REST: Duration = Duration::from_micros(1200);
/// A commit for so many jobs is worth its price.
const CROWD: usize = 24;
/// Jobs come fast when at least so many are expected during a rest.
const COMPANY: f64 = 4.0;

/// The pace of commits.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last commit began.
    last: Option<Instant>,
    is_fast: bool,
}

impl Pace {
    /// Enters a commit of `jobs` that began at `began`: so many had come since the one before.
    pub(super) fn committed(&mut self, jobs: usize, began: Instant) {
        let since = self.last.map_or(Duration::MAX, |last| began.saturating_duration_since(last));
        self.last = Some(began);
        self.is_fast = jobs as f64 * REST.as_secs_f64() >= COMPANY * since.as_secs_f64();
    }

    /// How many jobs are to wait before the next commit, with so many senders connected; none if it may begin at once.
    pub(super) fn crowd(&self, connections: usize) -> Option<usize> {
        self.is_fast.then(|| CROWD.min(connections / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 1000;

    /// The crowd that is waited for after two commits, the second of so many jobs at this rate.
    fn crowd(jobs: usize, per_sec: f64, connections: usize) -> Option<usize> {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.committed(1, start);
        pace.committed(jobs, start + Duration::from_secs_f64(jobs as f64 / per_sec));
        pace.crowd(connections)
    }

    #[test]
    fn a_lone_request_waits_for_nobody() {
        let mut pace = Pace::default();
        assert_eq!(pace.crowd(MANY), None);
        pace.committed(100, Instant::now());
        assert_eq!(pace.crowd(MANY), None, "one commit says nothing about a rate");
        assert_eq!(crowd(1, 1000.0, MANY), None);
        assert_eq!(crowd(50, 3000.0, MANY), None);
    }

    #[test]
    fn a_stream_is_gathered_but_never_more_than_half_of_the_connections() {
        assert_eq!(crowd(2, 4000.0, MANY), Some(CROWD));
        assert_eq!(crowd(5, 16_667.0, 128), Some(CROWD));
        assert_eq!(crowd(5, 16_667.0, 16), Some(8));
        assert_eq!(crowd(1, 16_667.0, 1), Some(0));
    }
}
