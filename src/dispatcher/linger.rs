//! Whether to linger before the next commit, for how long, and for how many jobs.
//!
//! A commit costs nearly the same for one job as for many: one write, one fdatasync, a few wake-ups, one frame. So the
//! dispatcher paces commits by their measured cost: while jobs arrive fast, the next commit begins when [`PACE`] times the
//! duration of the last ones has passed since the last began. On a busy machine or a slow disk a commit takes longer, and the
//! commits become fewer and larger. A lone request is committed at once.
//!
//! Waiting cannot enlarge the batch when all clients are closed-loop: they all wait for a response and send nothing. So the
//! wait ends when three quarters of the jobs of the largest recent commit are queued: the other clients may be slow. If no job
//! arrives in the second half of a wait, this target is lowered.

use std::time::{Duration, Instant};

/// Commits begin this many times their duration apart.
const PACE: u32 = 3;
/// The most that a commit is delayed after the one before.
const LINGER_MAX: Duration = Duration::from_millis(1);
/// The delay of a commit that no client waits for.
const UNAWAITED_LINGER: Duration = Duration::from_millis(5);
/// The weight of the last commit in the averages: high enough for a change of load, and low enough that two requests at about
/// the same time are not taken for a high rate.
const WEIGHT: f64 = 1.0 / 16.0;
/// A longer time between two commits, or a longer commit, counts as this one in the averages, so that a pause of the clients or
/// of the disk has no effect for long.
const SAMPLE_MAX: Duration = Duration::from_millis(20);
/// With this many jobs in a commit, its fixed cost is small for each of them.
const TARGET_MAX: usize = 256;
/// The target is at most the queue's capacity in jobs divided by this, so that the queue can hold it.
const QUEUE_PART: usize = 2;
/// The dispatcher lingers only if it can expect at least this many jobs to arrive meanwhile.
const EXPECTED_JOBS_MIN: f64 = 4.0;
/// The batch target is smaller than the largest of the last commits by one part in this many.
const SLOW_PART: usize = 4;
/// When a target is missed, the largest commit counts as smaller by one part in this many.
const MISSED_PART: usize = 8;

/// Decides whether the dispatcher lingers.
#[derive(Debug)]
pub(super) struct LingerPolicy {
    /// Whether clients wait for commits. In memory mode they do not.
    is_awaited: bool,
    /// When the last commit began and ended.
    last_commit: Option<(Instant, Instant)>,
    /// The average duration of a commit.
    cost: Duration,
    /// The average number of jobs in a commit.
    jobs: f64,
    /// The average time from the beginning of one commit to that of the next, in seconds.
    apart: f64,
    /// The jobs of the largest of the last commits.
    largest: usize,
    batch_target_max: usize,
}

/// What ends a wait for more jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Linger {
    /// This many queued jobs.
    pub(super) batch_target: usize,
    /// The time at which the next commit is due.
    pub(super) until: Instant,
}

impl LingerPolicy {
    /// For a queue of at most `max_jobs` jobs, and commits that clients wait for if `is_awaited` is set.
    pub(super) fn new(max_jobs: usize, is_awaited: bool) -> Self {
        let batch_target_max = TARGET_MAX.min(max_jobs / QUEUE_PART);
        Self {
            is_awaited,
            last_commit: None,
            cost: Duration::ZERO,
            jobs: 1.0,
            apart: SAMPLE_MAX.as_secs_f64(),
            largest: 1,
            batch_target_max,
        }
    }

    /// Records a commit of `jobs` jobs, which arrived since the previous commit.
    pub(super) fn committed(&mut self, jobs: usize, began: Instant, took: Duration) {
        let apart = self.last_commit.map_or(SAMPLE_MAX, |(last, _)| began.saturating_duration_since(last));
        let (apart, cost) = (apart.min(SAMPLE_MAX), took.min(SAMPLE_MAX));
        self.last_commit = Some((began, began + took));
        self.cost = if self.cost.is_zero() { cost } else { self.cost.mul_f64(1.0 - WEIGHT) + cost.mul_f64(WEIGHT) };
        self.jobs += (jobs as f64 - self.jobs) * WEIGHT;
        self.apart += (apart.as_secs_f64() - self.apart) * WEIGHT;
        self.largest = self.largest.max(jobs);
    }

    /// The time from the end of one commit to the beginning of the next.
    fn pause(&self) -> Duration {
        if self.is_awaited { (self.cost * (PACE - 1)).min(LINGER_MAX) } else { UNAWAITED_LINGER }
    }

    /// What to wait for; none if the next commit begins at once.
    pub(super) fn linger(&self) -> Option<Linger> {
        let (_, ended) = self.last_commit?;
        let interval = self.cost + self.pause();
        let is_fast = self.jobs * interval.as_secs_f64() >= EXPECTED_JOBS_MIN * self.apart;
        let until = ended + self.pause();
        let batch_target = if self.is_awaited { self.largest - self.largest / SLOW_PART } else { usize::MAX };
        let batch_target = batch_target.min(self.batch_target_max);
        (is_fast && batch_target > 1).then_some(Linger { batch_target, until })
    }

    /// Records that jobs stopped arriving before the target was reached.
    pub(super) fn target_missed(&mut self) {
        self.largest -= self.largest.div_ceil(MISSED_PART);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 10_000;
    const COST: Duration = Duration::from_micros(300);

    /// The policy after commits of `jobs` jobs each at this rate, and the beginning of the last one.
    fn policy(jobs: usize, per_sec: f64, max_jobs: usize) -> (LingerPolicy, Instant) {
        let mut policy = LingerPolicy::new(max_jobs, true);
        let mut now = Instant::now();
        for _ in 0..200 {
            now += Duration::from_secs_f64(jobs as f64 / per_sec);
            policy.committed(jobs, now, COST);
        }
        (policy, now)
    }

    fn batch_target(policy: &LingerPolicy) -> Option<usize> {
        policy.linger().map(|linger| linger.batch_target)
    }

    #[test]
    fn a_lone_request_is_committed_at_once() {
        let mut first = LingerPolicy::new(MANY, true);
        assert_eq!(first.linger(), None);
        first.committed(100, Instant::now(), COST);
        assert_eq!(first.linger(), None, "one commit has no rate");
        assert_eq!(policy(1, 1000.0, MANY).0.linger(), None);
        assert_eq!(policy(50, 3000.0, MANY).0.linger(), None);
    }

    #[test]
    fn a_few_requests_at_about_the_same_time_are_no_high_rate() {
        let (mut policy, mut now) = policy(1, 1000.0, MANY);
        for _ in 0..3 {
            now += Duration::from_micros(50);
            policy.committed(5, now, COST);
        }
        assert_eq!(policy.linger(), None);
    }

    #[test]
    fn fast_jobs_are_batched_up_to_what_the_queue_can_hold() {
        assert_eq!(batch_target(&policy(2, 5000.0, MANY).0), Some(2));
        assert_eq!(batch_target(&policy(9, 16_667.0, 12).0), Some(6));
        assert_eq!(batch_target(&policy(5, 16_667.0, 1).0), None);
        assert_eq!(batch_target(&policy(5, 16_667.0, 3).0), None, "the next job is the whole batch");
    }

    #[test]
    fn commits_are_paced_by_their_cost() {
        let (mut policy, began) = policy(10, 16_667.0, MANY);
        let close = |one: Duration, other: Duration| one.abs_diff(other) < Duration::from_micros(1);
        assert!(close(policy.linger().unwrap().until - began, COST * PACE), "{policy:?}");
        // A slow disk.
        let cost = Duration::from_millis(4);
        let mut now = began;
        for _ in 0..400 {
            now += Duration::from_millis(6);
            policy.committed(100, now, cost);
        }
        assert_eq!(policy.linger().unwrap().until - now, cost + LINGER_MAX);
    }

    #[test]
    fn a_disk_that_stalled_once_delays_no_later_commit() {
        for (jobs, per_sec) in [(1, 150.0), (20, 16_667.0)] {
            let (mut policy, mut now) = policy(jobs, per_sec, MANY);
            let lingers = policy.linger().is_some();
            for took in [Duration::from_secs(3), COST, COST, COST] {
                policy.committed(jobs, now, took);
                now += took;
                let linger = policy.linger();
                assert!(linger.is_none_or(|linger| linger.until - now <= LINGER_MAX), "{linger:?}");
                now += Duration::from_secs_f64(jobs as f64 / per_sec);
            }
            assert_eq!(policy.linger().is_some(), lingers);
        }
    }

    #[test]
    fn a_commit_that_no_client_waits_for_is_large() {
        let mut policy = LingerPolicy::new(MANY, false);
        let mut now = Instant::now();
        for _ in 0..200 {
            now += Duration::from_millis(1);
            policy.committed(20, now, COST);
        }
        policy.target_missed();
        let expected = Linger { batch_target: TARGET_MAX, until: now + COST + UNAWAITED_LINGER };
        assert_eq!(policy.linger(), Some(expected));
    }

    #[test]
    fn closed_loop_clients_are_waited_for_only_until_all_of_them_wait() {
        let (mut policy, mut now) = policy(20, 16_667.0, MANY);
        assert_eq!(batch_target(&policy), Some(15));
        // Twelve of them leave.
        let mut missed = 0;
        for _ in 0..1000 {
            if batch_target(&policy).is_some_and(|target| target > 8) {
                missed += 1;
                policy.target_missed();
            }
            now += Duration::from_micros(400);
            policy.committed(8, now, COST);
        }
        assert_eq!((batch_target(&policy), missed), (Some(8), 4));
    }
}
