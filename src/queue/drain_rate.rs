//! How fast jobs leave the queue, and what to tell those who found it full.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rates are measured over this long.
const WINDOW: Duration = Duration::from_secs(1);
/// What a sender is told at the least, before jitter.
const SHORTEST_SECS: f64 = 1.0;
/// What a sender is told at the most, before jitter: also when nothing leaves at all.
const LONGEST_SECS: f64 = 30.0;

/// The rate at which jobs leave, over the last whole window.
#[derive(Debug)]
pub(super) struct DrainRate(Mutex<Windows>);

#[derive(Debug)]
struct Windows {
    began: Instant,
    jobs: usize,
    /// Of the last window that ended.
    per_sec: f64,
}

impl DrainRate {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Windows { began: now, jobs: 0, per_sec: 0.0 }))
    }

    pub(super) fn record(&self, jobs: usize, now: Instant) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        windows.jobs += jobs;
    }

    /// Seconds until `waiting` jobs have left, stretched by up to half as `jitter` goes from 0 to 1.
    pub(super) fn retry_after(&self, waiting: usize, now: Instant, jitter: f64) -> u64 {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        let per_sec = windows.per_sec.max(windows.jobs as f64 / WINDOW.as_secs_f64());
        drop(windows);
        let secs = if per_sec > 0.0 { waiting as f64 / per_sec } else { LONGEST_SECS };
        (secs.clamp(SHORTEST_SECS, LONGEST_SECS) * (1.0 + jitter / 2.0)).ceil() as u64
    }
}

impl Windows {
    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed >= WINDOW {
            self.per_sec = self.jobs as f64 / passed.as_secs_f64();
            self.jobs = 0;
            self.began = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_told_when_the_queue_will_have_drained() {
        let start = Instant::now();
        let rate = DrainRate::new(start);
        rate.record(500, start + WINDOW / 2);
        assert_eq!(rate.retry_after(5000, start + WINDOW, 0.0), 10);
        assert_eq!(rate.retry_after(5000, start + WINDOW, 1.0), 15, "jitter adds up to half");
        assert_eq!(rate.retry_after(1, start + WINDOW, 0.0), 1);
    }

    #[test]
    fn when_nothing_leaves_the_longest_time_is_told() {
        let start = Instant::now();
        let rate = DrainRate::new(start);
        assert_eq!(rate.retry_after(10, start, 0.0), 30);
        rate.record(1000, start);
        assert_eq!(rate.retry_after(1000, start, 0.0), 1, "the window under way counts");
        rate.retry_after(10, start + WINDOW, 0.0);
        assert_eq!(rate.retry_after(10, start + 3 * WINDOW, 0.0), 30, "the rate of long ago does not");
    }
}
