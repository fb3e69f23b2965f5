//! Sealed segments on their way from the dispatcher to an idle worker.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::SealedSegment;

/// Sealed segments that no worker has taken yet: in memory at most one, on disk as many as the disk holds.
///
/// Workers take the oldest and the newest in turn, so that after an outage what waited longest and what has just come
/// both get on. The dispatcher asks for a [`Slot`] before it opens a segment, so a segment that is open can always be sealed, and a
/// dispatcher that gets no slot takes no jobs: that is what bounds memory when the store does not answer.
#[derive(Debug)]
pub struct Backlog {
    most: usize,
    state: Mutex<State>,
    room: Notify,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<SealedSegment>,
    newest_is_next: bool,
    closed: bool,
}

/// A place in the [`Backlog`] for one segment.
#[derive(Debug)]
pub struct Slot<'a>(&'a Backlog);

impl Backlog {
    /// A backlog of at most `most` segments.
    pub fn new(most: usize) -> Self {
        Self { most, state: Mutex::default(), room: Notify::new(), work: Notify::new() }
    }

    /// Waits for room for one segment. There is one dispatcher, so the room stays until it is filled.
    pub async fn slot(&self) -> Slot<'_> {
        loop {
            // Before the look, so that a segment taken in between is not missed.
            let room = self.room.notified();
            if self.lock().waiting.len() < self.most {
                return Slot(self);
            }
            room.await;
        }
    }

    /// The oldest segment and the newest in turn, once there is one; none when the backlog is closed and empty.
    pub async fn next(&self) -> Option<SealedSegment> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.lock();
                let newest = state.newest_is_next;
                let next = if newest { state.waiting.pop_back() } else { state.waiting.pop_front() };
                if let Some(segment) = next {
                    state.newest_is_next = !newest;
                    self.room.notify_one();
                    if !state.waiting.is_empty() {
                        // Two segments that came at once may have left one wake-up between them.
                        self.work.notify_one();
                    }
                    return Some(segment);
                }
                if state.closed {
                    return None;
                }
            }
            work.await;
        }
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

    /// How many segments wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
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
