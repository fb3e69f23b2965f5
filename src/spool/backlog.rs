//! Sealed segments on their way from the dispatcher to an idle worker.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::SealedSegment;

/// At most so many sealed segments that no worker has taken yet.
///
/// The dispatcher asks for a [`Slot`] before it opens a segment, so a segment that is open can always be sealed, and a
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

    /// The segment that has waited longest, once there is one; none when the backlog is closed and empty.
    pub async fn next(&self) -> Option<SealedSegment> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.lock();
                if let Some(segment) = state.waiting.pop_front() {
                    self.room.notify_one();
                    return Some(segment);
                }
                if state.closed {
                    return None;
                }
            }
            work.await;
        }
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
