//! Sealed segments that wait for a worker.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::SealedSegment;

/// The sealed segments that are not stored yet. In memory there may be one more than there are workers; on disk the bound is
/// the spool's space.
///
/// Workers take the oldest and the newest segment in turn, so that after an outage both old and new segments are uploaded. A
/// segment that fails is [deferred](Backlog::defer): it is not retried before a given time, and the worker takes another.
///
/// The dispatcher takes a [`Slot`] before it opens a segment, so that every open segment can be sealed. Without a slot it takes
/// no jobs, which bounds memory while the store is failing. A segment holds its slot until it is [done](Backlog::done).
#[derive(Debug)]
pub struct Backlog {
    max_segments: usize,
    state: Mutex<State>,
    slot_released: Notify,
    segment_added: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<SealedSegment>,
    /// Segments that failed, in no order.
    deferred: Vec<SealedSegment>,
    /// The number of segments that workers hold.
    taken: usize,
    newest_is_next: bool,
    is_closed: bool,
}

/// The right to add one segment to the [`Backlog`].
#[derive(Debug)]
pub struct Slot<'a>(&'a Backlog);

/// What a worker does next.
enum Next {
    Upload(Box<SealedSegment>),
    /// Wait, until then if there are deferred segments.
    Wait(Option<Instant>),
    End,
}

impl State {
    fn next(&mut self, now: Instant) -> Next {
        self.resume(|segment| segment.attempts.not_before.is_none_or(|until| until <= now));
        let newest = self.newest_is_next;
        let next = if newest { self.waiting.pop_back() } else { self.waiting.pop_front() };
        if let Some(segment) = next {
            self.newest_is_next = !newest;
            self.taken += 1;
            return Next::Upload(Box::new(segment));
        }
        if self.is_closed && self.deferred.is_empty() {
            return Next::End;
        }
        Next::Wait(self.deferred.iter().filter_map(|segment| segment.attempts.not_before).min())
    }

    /// Puts deferred segments that are due before all others, since they are the oldest.
    fn resume(&mut self, is_due: impl Fn(&SealedSegment) -> bool) {
        let due = self.deferred.extract_if(.., |segment| is_due(segment));
        for segment in due {
            self.waiting.push_front(segment);
        }
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.deferred.len()
    }
}

impl Backlog {
    /// A backlog for at most `max_segments` segments, including those that workers hold.
    pub fn new(max_segments: usize) -> Self {
        Self { max_segments, state: Mutex::default(), slot_released: Notify::new(), segment_added: Notify::new() }
    }

    /// Waits for a slot. There is one dispatcher, so at most one slot is taken and not yet filled.
    pub async fn slot(&self) -> Slot<'_> {
        loop {
            // Before the check, so that a release after it is not missed.
            let released = self.slot_released.notified();
            {
                let state = self.state.lock();
                if state.len() + state.taken < self.max_segments {
                    return Slot(self);
                }
            }
            released.await;
        }
    }

    /// Waits for a segment that is due: the oldest and the newest in turn. None when the backlog is closed and empty. The
    /// caller then calls [`done`](Self::done) or [`defer`](Self::defer).
    pub async fn next(&self) -> Option<SealedSegment> {
        loop {
            let added = self.segment_added.notified();
            let next = {
                let mut state = self.state.lock();
                let next = state.next(Instant::now());
                if matches!(next, Next::Upload(_)) && !state.waiting.is_empty() {
                    // Segments that were added at the same time may have left only one wake-up.
                    self.segment_added.notify_one();
                }
                next
            };
            match next {
                Next::Upload(segment) => return Some(*segment),
                Next::End => return None,
                Next::Wait(None) => added.await,
                Next::Wait(Some(until)) => tokio::select! {
                    () = added => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    /// A segment that was taken is stored or lost.
    pub fn done(&self) {
        let mut state = self.state.lock();
        state.taken = state.taken.saturating_sub(1);
        drop(state);
        self.slot_released.notify_one();
    }

    /// A segment that was taken failed, and is not retried before `delay` has passed.
    pub fn defer(&self, mut segment: SealedSegment, delay: Duration) {
        segment.attempts.not_before = Some(Instant::now() + delay);
        let mut state = self.state.lock();
        state.taken = state.taken.saturating_sub(1);
        state.deferred.push(segment);
        drop(state);
        // This segment may be due before the one that a worker waits for.
        self.segment_added.notify_one();
    }

    /// Makes deferred segments due: all of them, or only those that failed because the store did.
    pub fn retry_now(&self, all: bool) {
        self.state.lock().resume(|segment| all || !segment.attempts.is_own_failure);
        self.segment_added.notify_waiters();
    }

    /// Adds adopted segments, oldest first. They are on disk and need no slot.
    pub fn add(&self, adopted: Vec<SealedSegment>) {
        if adopted.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        let newer = std::mem::take(&mut state.waiting);
        state.waiting = adopted.into_iter().chain(newer).collect();
        drop(state);
        self.segment_added.notify_waiters();
    }

    /// No more segments will be added.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.segment_added.notify_waiters();
    }

    /// Whether the backlog is closed.
    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// The number of segments that wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().len()
    }
}

impl Slot<'_> {
    /// Adds a segment.
    pub fn fill(self, segment: SealedSegment) {
        self.0.state.lock().waiting.push_back(segment);
        self.0.segment_added.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::time::timeout;

    use super::*;
    use crate::segment::{Compression, SegmentId};
    use crate::spool::Spool;

    const SECOND: Duration = Duration::from_secs(1);

    fn segment() -> SealedSegment {
        Spool::in_memory(Compression::Gzip).open(SystemTime::now(), 1).unwrap().seal().unwrap()
    }

    /// Adds `count` segments, and returns their ids.
    async fn fill(backlog: &Backlog, count: usize) -> Vec<SegmentId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let segment = segment();
            ids.push(segment.status.id());
            backlog.slot().await.fill(segment);
        }
        ids
    }

    async fn next_id(backlog: &Backlog) -> Option<SegmentId> {
        backlog.next().await.map(|segment| segment.status.id())
    }

    #[tokio::test]
    async fn the_oldest_and_the_newest_segment_are_taken_in_turn_and_adopted_ones_are_the_oldest() {
        let backlog = Backlog::new(10);
        let ids = fill(&backlog, 3).await;
        let adopted = [segment(), segment()];
        let [first, second] = adopted.each_ref().map(|segment| segment.status.id());
        backlog.add(adopted.into());
        assert_eq!(backlog.waiting(), 5);
        for expected in [first, ids[2], second, ids[1], ids[0]] {
            assert_eq!(next_id(&backlog).await, Some(expected));
        }
        assert_eq!(backlog.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_segment_holds_its_slot_until_it_is_done() {
        let backlog = Backlog::new(2);
        fill(&backlog, 2).await;
        let is_full = || async { timeout(SECOND, backlog.slot()).await.is_err() };
        assert!(is_full().await, "both wait");
        let taken = backlog.next().await.unwrap();
        assert!(is_full().await, "a worker holds one");
        backlog.defer(taken, SECOND);
        assert!(is_full().await, "it is deferred");
        assert!(backlog.next().await.is_some() && backlog.next().await.is_some());
        assert!(is_full().await, "workers hold both");
        backlog.done();
        assert!(!is_full().await);
        fill(&backlog, 1).await;
        assert!(is_full().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deferred_segment_is_taken_when_it_is_due_or_when_the_store_is_back() {
        let backlog = Backlog::new(10);
        let ids = fill(&backlog, 1).await;
        let segment = backlog.next().await.unwrap();
        backlog.defer(segment, 10 * SECOND);
        assert_eq!(backlog.waiting(), 1);
        assert!(timeout(9 * SECOND, backlog.next()).await.is_err());
        let mut segment = backlog.next().await.unwrap();
        assert_eq!(segment.status.id(), ids[0]);
        segment.attempts.is_own_failure = true;
        backlog.defer(segment, 10 * SECOND);
        backlog.retry_now(false);
        assert!(timeout(SECOND, backlog.next()).await.is_err(), "it did not fail because of the store");
        backlog.retry_now(true);
        let mut segment = timeout(SECOND, backlog.next()).await.unwrap().unwrap();
        segment.attempts.is_own_failure = false;
        backlog.defer(segment, 10 * SECOND);
        backlog.retry_now(false);
        assert!(timeout(SECOND, backlog.next()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_backlog_ends_when_it_is_empty() {
        let backlog = Backlog::new(10);
        fill(&backlog, 1).await;
        let segment = backlog.next().await.unwrap();
        assert!(timeout(SECOND, backlog.next()).await.is_err() && !backlog.is_closed());
        backlog.defer(segment, 10 * SECOND);
        backlog.close();
        assert!(backlog.is_closed());
        assert!(timeout(SECOND, backlog.next()).await.is_err(), "the deferred segment is still to be stored");
        assert!(backlog.next().await.is_some());
        assert!(backlog.next().await.is_none());
    }
}
