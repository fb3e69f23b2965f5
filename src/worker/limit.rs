//! The number of uploads that may run at once: `MAX_WORKERS`, or fewer after the store has throttled.
//!
//! A throttled attempt halves the limit, and a success raises it by one, as in TCP's slow start (RFC 5681, 3.1), so that a
//! backlog drains at full speed soon after an outage. Of the attempts that run at the same time only one lowers the limit:
//! an attempt that began before the last decrease does not.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// An adaptive limit on concurrent uploads.
#[derive(Debug)]
pub struct UploadLimit {
    max: usize,
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug)]
struct State {
    limit: usize,
    running: usize,
    lowered: Option<Instant>,
}

/// The right to make one attempt. Released on drop, which does not change the limit.
#[derive(Debug)]
pub struct UploadPermit<'a> {
    limit: &'a UploadLimit,
    began: Instant,
}

impl UploadLimit {
    /// A limit that begins at `max` and never exceeds it.
    pub fn new(max: usize) -> Self {
        let state = State { limit: max, running: 0, lowered: None };
        Self { max, state: Mutex::new(state), released: Notify::new() }
    }

    /// Waits for a permit.
    pub async fn acquire(&self) -> UploadPermit<'_> {
        loop {
            let released = self.released.notified();
            {
                let mut state = self.state.lock();
                if state.running < state.limit {
                    state.running += 1;
                    if state.running < state.limit {
                        // Simultaneous releases, or a raised limit, leave only one wake-up.
                        self.released.notify_one();
                    }
                    return UploadPermit { limit: self, began: Instant::now() };
                }
            }
            released.await;
        }
    }

    /// The current limit.
    pub fn now(&self) -> usize {
        self.state.lock().limit
    }
}

impl UploadPermit<'_> {
    /// The upload succeeded: raises the limit.
    pub fn succeeded(self) {
        let mut state = self.limit.state.lock();
        state.limit = (state.limit + 1).min(self.limit.max);
    }

    /// The store throttled the upload: lowers the limit.
    pub fn throttled(self) {
        let mut state = self.limit.state.lock();
        if state.lowered.is_none_or(|lowered| self.began >= lowered) {
            state.limit = (state.limit / 2).max(1);
            state.lowered = Some(Instant::now());
        }
    }
}

impl Drop for UploadPermit<'_> {
    fn drop(&mut self) {
        self.limit.state.lock().running -= 1;
        self.limit.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;

    async fn acquire_all(limit: &UploadLimit) -> Vec<UploadPermit<'_>> {
        let mut permits = Vec::new();
        while let Ok(permit) = timeout(Duration::from_millis(1), limit.acquire()).await {
            permits.push(permit);
        }
        permits
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_lowers_the_limit_and_success_raises_it_up_to_its_maximum() {
        let limit = UploadLimit::new(8);
        let all = acquire_all(&limit).await;
        assert_eq!(all.len(), 8);
        all.into_iter().for_each(UploadPermit::throttled);
        assert_eq!(limit.now(), 4, "throttled together, lowered once");
        advance(Duration::from_secs(1)).await;
        for expected in [2, 1, 1] {
            limit.acquire().await.throttled();
            assert_eq!(limit.now(), expected);
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(acquire_all(&limit).await.len(), 1);
        let mut successes = 0;
        while limit.now() < 8 {
            limit.acquire().await.succeeded();
            successes += 1;
        }
        assert_eq!(successes, 7);
        for _ in 0..10 {
            limit.acquire().await.succeeded();
        }
        assert_eq!(acquire_all(&limit).await.len(), 8);
    }
}
