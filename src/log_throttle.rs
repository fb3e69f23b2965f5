//! Limits how often a log line is written whose cause is outside the process: a sender, a scanner, a store that is down.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a line is written that clients can cause.
const CLIENT_INTERVAL: Duration = Duration::from_secs(10);

/// Permits one line in an interval and counts those that it suppresses.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    permitted: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// One line in `interval`.
    pub(crate) const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new(State { permitted: None, suppressed: 0 }) }
    }

    /// For lines that clients can cause.
    pub(crate) const fn for_clients() -> Self {
        Self::new(CLIENT_INTERVAL)
    }

    /// Whether a line may be written now; if so, how many were suppressed since the last one.
    pub(crate) fn permit(&self) -> Option<u64> {
        self.permit_at(Instant::now())
    }

    /// The same at the time `now`.
    pub(crate) fn permit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.permitted.is_some_and(|permitted| now.saturating_duration_since(permitted) < self.interval) {
            state.suppressed += 1;
            return None;
        }
        state.permitted = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_an_interval_is_permitted_and_the_next_says_how_many_were_not() {
        let (throttle, began) = (LogThrottle::new(Duration::from_secs(10)), Instant::now());
        let after = |seconds| throttle.permit_at(began + Duration::from_secs(seconds));
        assert_eq!([after(0), after(1), after(9), after(10), after(11)], [Some(0), None, None, Some(2), None]);
        assert_eq!(after(100), Some(1));
    }
}
