//! Whether to linger before the next commit, and for how many jobs.
//!
//! A commit costs nearly the same for one job as for many: one write, one fdatasync, a few wake-ups, one frame. While jobs
//! arrive fast, but too slowly to form a batch during the previous commit, the dispatcher lingers until the batch target is
//! queued. A lone request is committed at once.
//!
//! Waiting cannot enlarge the batch when all clients are closed-loop: they all wait for a response and send nothing. The
//! number of such clients is unknown, so the target is learned. A target that is missed is lowered by a quarter, and
//! [`REACHED_TO_GROW`] targets that are reached raise it by one.

use std::time::{Duration, Instant};

/// The dispatcher lingers in steps of this length, and stops after a step in which no job arrived.
pub(super) const STEP: Duration = Duration::from_micros(400);
/// The most steps before one commit.
pub(super) const STEPS_MAX: u32 = 3;
/// With this many jobs in a commit, its fixed cost is small for each of them.
const TARGET_MAX: usize = 24;
/// The target is at most the queue's capacity in jobs divided by this, so that the queue can hold it.
const QUEUE_PART: usize = 2;
/// The dispatcher lingers only if it can expect at least this many jobs to arrive meanwhile.
const EXPECTED_JOBS_MIN: f64 = 4.0;
/// Targets that must be reached before the target is raised.
const REACHED_TO_GROW: u32 = 16;

/// Decides whether the dispatcher lingers.
#[derive(Debug)]
pub(super) struct LingerPolicy {
    /// When the last commit began.
    last_commit: Option<Instant>,
    /// Whether jobs arrived fast enough before the last commit.
    is_fast: bool,
    batch_target: usize,
    batch_target_max: usize,
    /// Targets reached since the target last changed.
    reached: u32,
}

impl LingerPolicy {
    /// For a queue of at most `max_jobs` jobs.
    pub(super) fn new(max_jobs: usize) -> Self {
        let batch_target_max = TARGET_MAX.min(max_jobs / QUEUE_PART);
        Self { last_commit: None, is_fast: false, batch_target: batch_target_max, batch_target_max, reached: 0 }
    }

    /// Records a commit of `jobs` jobs, which arrived since the previous commit.
    pub(super) fn committed(&mut self, jobs: usize, began: Instant) {
        let since = self.last_commit.map_or(Duration::MAX, |last| began.saturating_duration_since(last));
        self.last_commit = Some(began);
        self.is_fast = jobs as f64 * (STEP * STEPS_MAX).as_secs_f64() >= EXPECTED_JOBS_MIN * since.as_secs_f64();
        self.reached += u32::from(jobs >= self.batch_target);
        if self.reached >= REACHED_TO_GROW {
            self.batch_target = (self.batch_target + 1).min(self.batch_target_max);
            self.reached = 0;
        }
    }

    /// The number of queued jobs to linger for; none if the next commit begins at once.
    pub(super) fn batch_target(&self) -> Option<usize> {
        (self.is_fast && self.batch_target > 1).then_some(self.batch_target)
    }

    /// Records that jobs stopped arriving before the target was reached.
    pub(super) fn target_missed(&mut self) {
        self.batch_target = (self.batch_target - self.batch_target.div_ceil(4)).max(1);
        self.reached = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 10_000;

    /// The policy after two commits, the second with `jobs` jobs that arrived at this rate.
    fn policy(jobs: usize, per_sec: f64, max_jobs: usize) -> LingerPolicy {
        let start = Instant::now();
        let mut policy = LingerPolicy::new(max_jobs);
        policy.committed(1, start);
        policy.committed(jobs, start + Duration::from_secs_f64(jobs as f64 / per_sec));
        policy
    }

    #[test]
    fn a_lone_request_is_committed_at_once() {
        let mut first = LingerPolicy::new(MANY);
        assert_eq!(first.batch_target(), None);
        first.committed(100, Instant::now());
        assert_eq!(first.batch_target(), None, "one commit has no rate");
        assert_eq!(policy(1, 1000.0, MANY).batch_target(), None);
        assert_eq!(policy(50, 3000.0, MANY).batch_target(), None);
    }

    #[test]
    fn fast_jobs_are_batched_up_to_what_the_queue_can_hold() {
        assert_eq!(policy(2, 4000.0, MANY).batch_target(), Some(TARGET_MAX));
        assert_eq!(policy(5, 16_667.0, 12).batch_target(), Some(6));
        assert_eq!(policy(5, 16_667.0, 1).batch_target(), None);
    }

    #[test]
    fn the_dispatcher_learns_not_to_linger_for_closed_loop_clients() {
        for clients in [1, 8, 20] {
            let (mut policy, mut now, mut missed) = (LingerPolicy::new(MANY), Instant::now(), 0);
            for _ in 0..1000 {
                if policy.batch_target().is_some_and(|target| target > clients) {
                    missed += 1;
                    policy.target_missed();
                }
                now += Duration::from_micros(200);
                policy.committed(clients, now);
            }
            // A few at first, and one each time that the target has grown.
            assert!((1..=10 + 1000 / REACHED_TO_GROW).contains(&missed), "{missed} missed with {clients} clients");
        }
    }

    #[test]
    fn a_target_that_was_lowered_grows_again() {
        let mut policy = policy(8, 16_667.0, MANY);
        for _ in 0..TARGET_MAX {
            policy.target_missed();
        }
        assert_eq!(policy.batch_target(), None);
        let mut now = Instant::now();
        for _ in 0..REACHED_TO_GROW as usize * TARGET_MAX {
            now += Duration::from_micros(200);
            policy.committed(TARGET_MAX, now);
        }
        assert_eq!(policy.batch_target(), Some(TARGET_MAX));
    }
}
