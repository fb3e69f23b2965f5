//! At most one log line in an interval, for what a client can cause as often as it likes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decides whether a line may be logged, and counts those that may not.
#[derive(Debug)]
pub struct LogThrottle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// Allows one line in `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::default() }
    }

    /// How many lines were suppressed since the last one, if a line may be logged now.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_allowed_in_an_interval_and_says_how_many_were_suppressed() {
        let (throttle, now) = (LogThrottle::new(Duration::from_secs(10)), Instant::now());
        let at = |secs| throttle.allow_at(now + Duration::from_secs(secs));
        assert_eq!([at(0), at(1), at(9), at(10), at(20)], [Some(0), None, None, Some(2), Some(0)]);
    }
}
