//! Sealed segments on their way from the dispatcher to an idle worker.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::SealedSegment;

/// Sealed segments that are not stored yet: in memory one more than there are workers, on disk as many as the disk holds.
///
/// Workers take the oldest and the newest in turn, so that after an outage what waited longest and what has just come
/// both get on. A segment that fails is [deferred](Backlog::defer): it is not taken again before a given time, and the worker takes
/// another. The dispatcher asks for a [`Slot`] before it opens a segment, so a segment that is open can always be sealed, and a
/// dispatcher that gets no slot takes no jobs: that is what bounds memory when the store does not answer. A segment holds its
/// slot until it is [done](Backlog::done), wherever it is, so a deferred one always has its place.
#[derive(Debug)]
pub struct Backlog {
    /// Segments that may exist, taken ones included.
    most: usize,
    state: Mutex<State>,
    room: Notify,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<SealedSegment>,
    /// Segments that failed, in no order.
    deferred: Vec<SealedSegment>,
    /// Segments that workers have.
    taken: usize,
    newest_is_next: bool,
    closed: bool,
}

/// A place in the [`Backlog`] for one segment.
#[derive(Debug)]
pub struct Slot<'a>(&'a Backlog);

/// What there is for a worker.
enum Next {
    Segment(Box<SealedSegment>),
    /// All that are there are deferred; the first until then, if there is one.
    Later(Option<Instant>),
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
            return Next::Segment(Box::new(segment));
        }
        if self.closed && self.deferred.is_empty() {
            return Next::End;
        }
        Next::Later(self.deferred.iter().filter_map(|segment| segment.attempts.not_before).min())
    }

    /// Deferred segments that need not wait any longer are the oldest again.
    fn resume(&mut self, is_due: impl Fn(&SealedSegment) -> bool) {
        let due = self.deferred.extract_if(.., |segment| is_due(segment));
        for segment in due {
            self.waiting.push_front(segment);
        }
    }
}

impl Backlog {
    /// A backlog for at most `most` segments, those that workers have taken included.
    pub fn new(most: usize) -> Self {
        Self { most, state: Mutex::default(), room: Notify::new(), work: Notify::new() }
    }

    /// Waits for room for one segment. There is one dispatcher, so the room stays until it is filled.
    pub async fn slot(&self) -> Slot<'_> {
        loop {
            // Before the look, so that a segment done in between is not missed.
            let room = self.room.notified();
            {
                let state = self.lock();
                if state.waiting.len() + state.deferred.len() + state.taken < self.most {
                    return Slot(self);
                }
            }
            room.await;
        }
    }

    /// The oldest segment and the newest in turn, once there is one that is due; none when the backlog is closed and empty. The
    /// caller gives it back: [`done`](Self::done) or [`defer`](Self::defer).
    pub async fn next(&self) -> Option<SealedSegment> {
        loop {
            let work = self.work.notified();
            let next = {
                let mut state = self.lock();
                let next = state.next(Instant::now());
                if matches!(next, Next::Segment(_)) && !state.waiting.is_empty() {
                    // Two segments that came at once may have left one wake-up between them.
                    self.work.notify_one();
                }
                next
            };
            match next {
                Next::Segment(segment) => return Some(*segment),
                Next::End => return None,
                Next::Later(None) => work.await,
                Next::Later(Some(until)) => tokio::select! {
                    () = work => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    /// A segment that was taken is stored, or never will be.
    pub fn done(&self) {
        let mut state = self.lock();
        state.taken = state.taken.saturating_sub(1);
        drop(state);
        self.room.notify_one();
    }

    /// A segment that was taken failed, and is not to be taken again before `wait` is over.
    pub fn defer(&self, mut segment: SealedSegment, wait: Duration) {
        segment.attempts.not_before = Some(Instant::now() + wait);
        let mut state = self.lock();
        state.taken = state.taken.saturating_sub(1);
        state.deferred.push(segment);
        drop(state);
        // A worker that waits for the first of them may have to wait for this one instead.
        self.work.notify_one();
    }

    /// Deferred segments are due at once: those that failed as all others did, or, where the server stops, every one.
    pub fn retry_now(&self, is_every_one: bool) {
        self.lock().resume(|segment| is_every_one || !segment.attempts.is_own_failure);
        self.work.notify_waiters();
    }

    /// Adds segments that dead processes have left, the oldest first: they are on disk, so they need no slot.
    pub fn add(&self, adopted: Vec<SealedSegment>) {
        if adopted.is_empty() {
            return;
        }
        let mut state = self.lock();
        let behind = std::mem::take(&mut state.waiting);
        state.waiting = adopted.into_iter().chain(behind).collect();
        drop(state);
        self.work.notify_waiters();
    }

    /// No more segments will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_waiters();
    }

    /// Whether no more segments will come.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many segments wait.
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.waiting.len() + state.deferred.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// Puts a segment into its place.
    pub fn fill(self, segment: SealedSegment) {
        self.0.lock().waiting.push_back(segment);
        self.0.work.notify_one();
    }
}
