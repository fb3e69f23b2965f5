//! The rate at which jobs leave the queue, and the `Retry-After` that follows from it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The length of a measuring window.
const WINDOW: Duration = Duration::from_secs(1);
/// The shortest `Retry-After`, before jitter.
const RETRY_AFTER_MIN_SECS: f64 = 1.0;
/// The longest one that follows from the drain rate. It also applies while no job leaves the queue.
const RETRY_AFTER_MAX_SECS: f64 = 30.0;

/// The `Retry-After` for a wait of `secs`, plus up to half as `jitter` goes from 0 to 1.
pub(crate) fn retry_after(secs: f64, jitter: f64) -> u64 {
    (secs.max(RETRY_AFTER_MIN_SECS) * (1.0 + jitter / 2.0)).ceil() as u64
}

/// The rate at which jobs leave the queue, over the last complete window.
#[derive(Debug)]
pub(super) struct DrainRate(Mutex<Windows>);

#[derive(Debug)]
struct Windows {
    began: Instant,
    jobs: usize,
    /// The rate in the last complete window.
    per_sec: f64,
}

impl DrainRate {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Windows { began: now, jobs: 0, per_sec: 0.0 }))
    }

    pub(super) fn record(&self, jobs: usize, now: Instant) {
        let mut windows = self.0.lock();
        windows.roll(now);
        windows.jobs += jobs;
    }

    /// Seconds until `queued` jobs have left the queue, plus up to half as `jitter` goes from 0 to 1.
    pub(super) fn retry_after(&self, queued: usize, now: Instant, jitter: f64) -> u64 {
        let mut windows = self.0.lock();
        windows.roll(now);
        let per_sec = windows.per_sec.max(windows.jobs as f64 / WINDOW.as_secs_f64());
        drop(windows);
        let secs = if per_sec > 0.0 { queued as f64 / per_sec } else { RETRY_AFTER_MAX_SECS };
        retry_after(secs.min(RETRY_AFTER_MAX_SECS), jitter)
    }
}

impl Windows {
    fn roll(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed >= WINDOW {
            self.per_sec = self.jobs as f64 / elapsed.as_secs_f64();
            self.jobs = 0;
            self.began = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_the_time_until_the_queue_has_drained() {
        let start = Instant::now();
        let rate = DrainRate::new(start);
        rate.record(500, start + WINDOW / 2);
        assert_eq!(rate.retry_after(5000, start + WINDOW, 0.0), 10);
        assert_eq!(rate.retry_after(5000, start + WINDOW, 1.0), 15, "jitter adds up to half");
        assert_eq!(rate.retry_after(1, start + WINDOW, 0.0), 1);
        rate.record(500, start + WINDOW);
        assert_eq!(rate.retry_after(5000, start + 3 * WINDOW, 0.0), 20, "a longer window has a lower rate");
    }

    #[test]
    fn retry_after_is_the_maximum_while_no_job_leaves_the_queue() {
        let start = Instant::now();
        let rate = DrainRate::new(start);
        assert_eq!(rate.retry_after(10, start, 0.0), 30);
        rate.record(1000, start);
        assert_eq!(rate.retry_after(1000, start, 0.0), 1, "the current window counts");
        rate.retry_after(10, start + WINDOW, 0.0);
        assert_eq!(rate.retry_after(10, start + 3 * WINDOW, 0.0), 30, "an old rate does not");
    }
}
