//! Limits log lines whose cause is outside of the process, such as a client, a scanner or an outage of the store.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The interval for lines that clients can cause.
const CLIENT_INTERVAL: Duration = Duration::from_secs(10);

/// Permits one line per interval and counts the suppressed lines.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last_permit: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// One line per `interval`.
    pub(crate) const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new(State { last_permit: None, suppressed: 0 }) }
    }

    /// For lines that clients can cause.
    pub(crate) const fn for_clients() -> Self {
        Self::new(CLIENT_INTERVAL)
    }

    /// The number of lines that were suppressed since the last one, if a line is permitted now.
    pub(crate) fn permit(&self) -> Option<u64> {
        self.permit_at(Instant::now())
    }

    /// [`permit`](Self::permit) at the time `now`.
    pub(crate) fn permit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.last_permit.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            state.suppressed += 1;
            return None;
        }
        state.last_permit = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_is_permitted_with_the_number_of_suppressed_lines() {
        let (throttle, start) = (LogThrottle::new(Duration::from_secs(10)), Instant::now());
        let after = |seconds| throttle.permit_at(start + Duration::from_secs(seconds));
        assert_eq!([after(0), after(1), after(9), after(10), after(11)], [Some(0), None, None, Some(2), None]);
        assert_eq!(after(100), Some(1));
    }
}
