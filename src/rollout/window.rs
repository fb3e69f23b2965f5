//! Requests of the last seconds: how many, how many of them failed, and how long they took.

use std::time::{Duration, Instant};

/// The time that a window covers.
pub(super) const WINDOW: Duration = Duration::from_secs(30);
const SLOT: Duration = Duration::from_secs(1);
const SLOTS: usize = (WINDOW.as_secs() / SLOT.as_secs()) as usize;
/// The upper bound of the first bucket of latencies; each bound is 2^(1/4) times the one before, so that a percentile is at
/// most 19% too high.
const FIRST_BOUND: Duration = Duration::from_micros(100);
const BUCKETS_PER_DOUBLING: f64 = 4.0;
/// The last one has no bound. The one before ends above a minute.
const BUCKETS: usize = 80;

/// What happened in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) requests: u64,
    pub(super) errors: u64,
    latencies: [u32; BUCKETS],
}

/// A sliding window of [`WINDOW`], in slots of a second.
#[derive(Debug)]
pub(super) struct Window {
    began: Instant,
    slots: Box<[Slot; SLOTS]>,
}

#[derive(Debug, Clone)]
struct Slot {
    /// The number of the second since the beginning.
    second: u64,
    sample: Sample,
}

impl Default for Sample {
    fn default() -> Self {
        Self { requests: 0, errors: 0, latencies: [0; BUCKETS] }
    }
}

impl Sample {
    /// The number of requests whose latency is known.
    pub(super) fn timed(&self) -> u64 {
        self.latencies.iter().map(|count| u64::from(*count)).sum()
    }

    /// An upper bound of the latency that 99% of the timed requests do not exceed.
    pub(super) fn p99(&self) -> Option<Duration> {
        let rank = (self.timed() * 99).div_ceil(100);
        let mut seen = 0;
        let bucket = self.latencies.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank && rank > 0
        });
        bucket.map(upper_bound)
    }

    /// How many of the timed requests certainly took longer than `latency`.
    pub(super) fn slower_than(&self, latency: Duration) -> u64 {
        let buckets = self.latencies.iter().enumerate().skip(1);
        buckets.filter(|(index, _)| upper_bound(index - 1) >= latency).map(|(_, count)| u64::from(*count)).sum()
    }

    fn add(&mut self, is_error: Option<bool>, latency: Option<Duration>) {
        self.requests += u64::from(is_error.is_some());
        self.errors += u64::from(is_error == Some(true));
        if let Some(count) = latency.and_then(|latency| self.latencies.get_mut(bucket(latency))) {
            *count = count.saturating_add(1);
        }
    }
}

/// The bucket of a latency.
fn bucket(latency: Duration) -> usize {
    let doublings = (latency.as_secs_f64() / FIRST_BOUND.as_secs_f64()).log2();
    // A latency of 0 is negative infinity, which becomes 0.
    ((doublings * BUCKETS_PER_DOUBLING).ceil() as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    FIRST_BOUND.mul_f64((bucket as f64 / BUCKETS_PER_DOUBLING).exp2())
}

impl Window {
    /// An empty window. Times before `began` count as `began`.
    pub(super) fn new(began: Instant) -> Self {
        Self { began, slots: Box::new(std::array::from_fn(|_| Slot { second: 0, sample: Sample::default() })) }
    }

    /// Adds a request that ended at `now`. If it is not known whether that was an error, it only has a latency.
    pub(super) fn add(&mut self, now: Instant, is_error: Option<bool>, latency: Option<Duration>) {
        let second = self.second(now);
        let Some(slot) = self.slots.get_mut((second % SLOTS as u64) as usize) else { return };
        if slot.second != second {
            *slot = Slot { second, sample: Sample::default() };
        }
        slot.sample.add(is_error, latency);
    }

    /// The requests of the window that ends at `now`.
    pub(super) fn sum(&self, now: Instant) -> Sample {
        let second = self.second(now);
        let mut sum = Sample::default();
        for Slot { second: of, sample } in self.slots.iter() {
            if *of > second || second - of >= SLOTS as u64 {
                continue;
            }
            sum.requests += sample.requests;
            sum.errors += sample.errors;
            for (total, count) in sum.latencies.iter_mut().zip(&sample.latencies) {
                *total = total.saturating_add(*count);
            }
        }
        sum
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn of(latencies: &[Duration]) -> Sample {
        let mut sample = Sample::default();
        latencies.iter().for_each(|latency| sample.add(Some(false), Some(*latency)));
        sample
    }

    #[test]
    fn a_window_forgets_what_is_older_than_itself() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut window = Window::new(began);
        window.add(at(0), Some(true), None);
        window.add(at(5), Some(false), Some(MS));
        let counts = |window: &Window, seconds| {
            let sample = window.sum(at(seconds));
            (sample.requests, sample.errors, sample.timed())
        };
        assert_eq!(counts(&window, 29), (2, 1, 1));
        assert_eq!(counts(&window, 30), (1, 0, 1));
        assert_eq!(counts(&window, 35), (0, 0, 0));
        window.add(at(30), Some(false), None);
        assert_eq!(counts(&window, 34), (2, 0, 1), "a slot is used again");
        window.add(at(1000), Some(false), None);
        assert_eq!(counts(&window, 1000), (1, 0, 0));
    }

    #[test]
    fn a_percentile_is_at_most_19_percent_too_high() {
        for latency in [MS / 20, MS, 3 * MS, 77 * MS, 1500 * MS, 50_000 * MS] {
            let p99 = of(&[latency; 10]).p99().unwrap();
            assert!(p99 >= latency && (p99 <= latency.mul_f64(1.19) || p99 == FIRST_BOUND), "{latency:?}: {p99:?}");
        }
        assert_eq!(of(&[]).p99(), None);
        assert!(of(&[Duration::from_secs(3600), Duration::ZERO]).p99().unwrap() > Duration::from_secs(60));
        let mut many = vec![MS; 990];
        many.extend([1000 * MS; 10]);
        assert!(of(&many).p99().unwrap() < 2 * MS);
        many.push(1000 * MS);
        assert!(of(&many).p99().unwrap() >= 1000 * MS);
    }

    #[test]
    fn slower_requests_are_counted_by_the_lower_bound_of_their_bucket() {
        let sample = of(&[MS, 10 * MS, 100 * MS, 100 * MS]);
        assert_eq!([MS / 2, 5 * MS, 50 * MS, 100 * MS, 200 * MS].map(|than| sample.slower_than(than)), [4, 3, 2, 0, 0]);
    }
}
