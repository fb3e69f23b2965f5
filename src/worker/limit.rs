//! How many uploads may run at once: up to `MAX_WORKERS`, and fewer after the store asked for less.
//!
//! A throttled attempt halves the limit, and a success raises it by one, as TCP's slow start does (RFC 5681, 3.1): after an
//! outage the backlog is to drain at full speed soon. Of many attempts that are throttled together only one counts: those
//! that began before the last decrease say nothing about the limit since.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// A limit on attempts that run at once, which moves.
#[derive(Debug)]
pub struct UploadLimit {
    most: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    limit: usize,
    running: usize,
    lowered: Option<Instant>,
}

/// A place under the limit for one attempt; dropping it says nothing about the limit.
#[derive(Debug)]
pub struct Place<'a> {
    of: &'a UploadLimit,
    began: Instant,
}

impl UploadLimit {
    /// A limit that begins at `most` and never exceeds it.
    pub fn new(most: usize) -> Self {
        let state = State { limit: most, running: 0, lowered: None };
        Self { most, state: Mutex::new(state), freed: Notify::new() }
    }

    /// Waits for a place.
    pub async fn place(&self) -> Place<'_> {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.lock();
                if state.running < state.limit {
                    state.running += 1;
                    if state.running < state.limit {
                        // Places that were freed at once, or a limit that rose, left one wake-up between them.
                        self.freed.notify_one();
                    }
                    return Place { of: self, began: Instant::now() };
                }
            }
            freed.await;
        }
    }

    /// The limit as it stands.
    pub fn now(&self) -> usize {
        self.lock().limit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// The store took the object.
    pub fn succeeded(self) {
        let mut state = self.of.lock();
        state.limit = (state.limit + 1).min(self.of.most);
    }

    /// The store asked for less.
    pub fn throttled(self) {
        let mut state = self.of.lock();
        if state.lowered.is_none_or(|lowered| self.began >= lowered) {
            state.limit = (state.limit / 2).max(1);
            state.lowered = Some(Instant::now());
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.of.lock().running -= 1;
        self.of.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;

    async fn places(limit: &UploadLimit) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        while let Ok(place) = timeout(Duration::from_millis(1), limit.place()).await {
            places.push(place);
        }
        places
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_lowers_the_limit_and_success_raises_it_again_to_its_most() {
        let limit = UploadLimit::new(8);
        let all = places(&limit).await;
        assert_eq!(all.len(), 8);
        all.into_iter().for_each(Place::throttled);
        assert_eq!(limit.now(), 4, "throttled together, lowered once");
        advance(Duration::from_secs(1)).await;
        for expected in [2, 1, 1] {
            limit.place().await.throttled();
            assert_eq!(limit.now(), expected);
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(places(&limit).await.len(), 1);
        let mut successes = 0;
        while limit.now() < 8 {
            limit.place().await.succeeded();
            successes += 1;
        }
        assert_eq!(successes, 7);
        for _ in 0..10 {
            limit.place().await.succeeded();
        }
        assert_eq!(places(&limit).await.len(), 8);
    }
}
