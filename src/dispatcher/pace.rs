//! When the next commit is worth making.
//!
//! A commit costs nearly the same however many jobs it serves: a call to the disk, wake-ups, a frame of its own for the
//! codec. So while jobs come fast, but not so fast that they gather by themselves during a commit, the dispatcher rests
//! before the next one until a crowd waits. A lone request never waits for company.
//!
//! Senders that wait for an answer before they send again are not to be rested for: they are all here, and nobody else
//! comes. How many they are nobody says, so it is learnt: a rest that ends because nobody came any more takes a quarter of the crowd away,
//! and only after many that were completed in time is it let grow.

use std::time::{Duration, Instant};

/// A rest is taken in slices of this, and ends with one in which nobody came.
pub(super) const SLICE: Duration = Duration::from_micros(400);
/// A rest has at most so many slices.
pub(super) const SLICES_MAX: u32 = 3;
/// A commit for so many jobs is worth its price.
const CROWD_MAX: usize = 24;
/// Of the queue's jobs, a crowd is at most this share: it must be able to come.
const QUEUE_SHARE: usize = 2;
/// Jobs come fast when at least so many are expected during a rest.
const COMPANY: f64 = 4.0;
/// After so many commits that served a whole crowd, one more is waited for.
const GROWTH: u32 = 16;

/// The pace of commits.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the last commit began.
    last: Option<Instant>,
    is_fast: bool,
    crowd: usize,
    crowd_max: usize,
    completed: u32,
}

impl Pace {
    /// The pace behind a queue of at most `max_jobs` jobs.
    pub(super) fn new(max_jobs: usize) -> Self {
        let crowd_max = CROWD_MAX.min(max_jobs / QUEUE_SHARE);
        Self { last: None, is_fast: false, crowd: crowd_max, crowd_max, completed: 0 }
    }

    /// Enters a commit of `jobs` that began at `began`: so many had come since the one before.
    pub(super) fn committed(&mut self, jobs: usize, began: Instant) {
        let since = self.last.map_or(Duration::MAX, |last| began.saturating_duration_since(last));
        self.last = Some(began);
        let rest = SLICE * SLICES_MAX;
        self.is_fast = jobs as f64 * rest.as_secs_f64() >= COMPANY * since.as_secs_f64();
        self.completed += u32::from(jobs >= self.crowd);
        if self.completed >= GROWTH {
            self.crowd = (self.crowd + 1).min(self.crowd_max);
            self.completed = 0;
        }
    }

    /// How many jobs are to wait before the next commit; none if it may begin at once.
    pub(super) fn crowd(&self) -> Option<usize> {
        (self.is_fast && self.crowd > 1).then_some(self.crowd)
    }

    /// A rest has ended because nobody came any more.
    pub(super) fn was_quiet(&mut self) {
        self.crowd = (self.crowd - self.crowd.div_ceil(4)).max(1);
        self.completed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 10_000;

    /// A pace after two commits, the second of so many jobs at this rate.
    fn pace(jobs: usize, per_sec: f64, max_jobs: usize) -> Pace {
        let start = Instant::now();
        let mut pace = Pace::new(max_jobs);
        pace.committed(1, start);
        pace.committed(jobs, start + Duration::from_secs_f64(jobs as f64 / per_sec));
        pace
    }

    #[test]
    fn a_lone_request_waits_for_nobody() {
        let mut first = Pace::new(MANY);
        assert_eq!(first.crowd(), None);
        first.committed(100, Instant::now());
        assert_eq!(first.crowd(), None, "one commit says nothing about a rate");
        assert_eq!(pace(1, 1000.0, MANY).crowd(), None);
        assert_eq!(pace(50, 3000.0, MANY).crowd(), None);
    }

    #[test]
    fn a_stream_is_gathered_but_never_more_than_the_queue_can_hold() {
        assert_eq!(pace(2, 4000.0, MANY).crowd(), Some(CROWD_MAX));
        assert_eq!(pace(5, 16_667.0, 12).crowd(), Some(6));
        assert_eq!(pace(5, 16_667.0, 1).crowd(), None);
    }

    #[test]
    fn senders_who_wait_for_their_answers_are_soon_rested_for_no_more() {
        for senders in [1, 8, 20] {
            let (mut pace, mut now, mut quiet) = (Pace::new(MANY), Instant::now(), 0);
            for _ in 0..1000 {
                // They are all there are, whatever else is connected.
                if pace.crowd().is_some_and(|crowd| crowd > senders) {
                    quiet += 1;
                    pace.was_quiet();
                }
                now += Duration::from_micros(200);
                pace.committed(senders, now);
            }
            // Some at first, and then one for every time that the crowd has grown.
            assert!((1..=10 + 1000 / GROWTH).contains(&quiet), "{quiet} rests were in vain for {senders}");
        }
    }

    #[test]
    fn a_crowd_that_was_quiet_grows_again() {
        let mut pace = pace(8, 16_667.0, MANY);
        for _ in 0..CROWD_MAX {
            pace.was_quiet();
        }
        assert_eq!(pace.crowd(), None);
        let mut now = Instant::now();
        for _ in 0..GROWTH as usize * CROWD_MAX {
            now += Duration::from_micros(200);
            pace.committed(CROWD_MAX, now);
        }
        assert_eq!(pace.crowd(), Some(CROWD_MAX));
    }
}
