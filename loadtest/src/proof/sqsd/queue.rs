//! An SQS standard queue as the daemon of a worker environment uses it: visibility timeouts, receive counts, dead letters.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

/// Messages are numbered in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    visibility: Duration,
    /// A message that was received this often goes to the dead letters instead of being received once more.
    max_receives: u32,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
    /// When messages become visible. An entry counts only if it is the last one of its message.
    visible: BinaryHeap<Reverse<(Instant, usize, u32)>>,
    counts: Counts,
}

#[derive(Debug)]
struct Message {
    receives: u32,
    first_received: SystemTime,
    /// The number of its last entry.
    entry: u32,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Deleted,
    DeadLetter,
}

/// A message that was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) message: usize,
    pub(super) receives: u32,
    pub(super) first_received: SystemTime,
    entry: u32,
}

/// What has become of all messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub sent: u64,
    pub received: u64,
    pub deleted: u64,
    pub dead_letters: u64,
}

impl Counts {
    /// Messages in the queue, visible or not.
    pub fn left(&self) -> u64 {
        self.sent - self.deleted - self.dead_letters
    }
}

impl Queue {
    pub(super) fn new(visibility: Duration, max_receives: u32) -> Self {
        Self { state: Mutex::default(), visibility, max_receives }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the next message.
    pub(super) fn send(&self) {
        let mut state = self.state();
        let message = state.messages.len();
        state.messages.push(Message { receives: 0, first_received: SystemTime::UNIX_EPOCH, entry: 0, end: None });
        state.counts.sent += 1;
        state.show(message, Duration::ZERO);
    }

    /// The message that has been visible for the longest time; it is invisible for the visibility timeout then.
    pub(super) fn receive(&self) -> Option<Received> {
        let mut state = self.state();
        let now = Instant::now();
        while let Some(Reverse((_, index, entry))) =
            state.visible.peek().copied().filter(|Reverse((at, ..))| *at <= now)
        {
            state.visible.pop();
            let Some(message) = state.messages.get_mut(index) else { continue };
            if message.end.is_some() || message.entry != entry {
                continue;
            }
            if message.receives >= self.max_receives {
                message.end = Some(End::DeadLetter);
                state.counts.dead_letters += 1;
                continue;
            }
            message.receives += 1;
            if message.receives == 1 {
                message.first_received = SystemTime::now();
            }
            let (receives, first_received) = (message.receives, message.first_received);
            state.counts.received += 1;
            let entry = state.show(index, self.visibility);
            return Some(Received { message: index, receives, first_received, entry });
        }
        None
    }

    /// Deletes a message, also if it has become visible again meanwhile.
    pub(super) fn delete(&self, received: &Received) {
        let mut state = self.state();
        let Some(message) = state.messages.get_mut(received.message).filter(|message| message.end.is_none()) else {
            return;
        };
        message.end = Some(End::Deleted);
        state.counts.deleted += 1;
    }

    /// Makes a message visible after `timeout`, unless it was received again meanwhile.
    pub(super) fn change_visibility(&self, received: &Received, timeout: Duration) {
        let mut state = self.state();
        if state.messages.get(received.message).is_some_and(|message| message.entry == received.entry) {
            state.show(received.message, timeout);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// How many messages were received how often.
    pub(super) fn receives(&self) -> BTreeMap<u32, u64> {
        let mut receives = BTreeMap::new();
        for message in &self.state().messages {
            *receives.entry(message.receives).or_default() += 1;
        }
        receives
    }

    /// Whether each message was deleted, and is no dead letter.
    pub(super) fn deleted(&self) -> Vec<bool> {
        self.state().messages.iter().map(|message| message.end == Some(End::Deleted)).collect()
    }

    /// How often each message was received.
    pub(super) fn receives_of_each(&self) -> Vec<u32> {
        self.state().messages.iter().map(|message| message.receives).collect()
    }
}

impl State {
    fn show(&mut self, index: usize, after: Duration) -> u32 {
        let Some(message) = self.messages.get_mut(index) else { return 0 };
        message.entry += 1;
        self.visible.push(Reverse((Instant::now() + after, index, message.entry)));
        message.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISIBILITY: Duration = Duration::from_secs(300);
    const ERROR_VISIBILITY: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_message_is_invisible_for_its_timeout_and_gone_when_it_was_deleted() {
        let queue = Queue::new(VISIBILITY, 10);
        assert!(queue.receive().is_none());
        queue.send();
        let first = queue.receive().unwrap();
        assert_eq!((first.message, first.receives), (0, 1));
        tokio::time::advance(VISIBILITY - Duration::from_millis(1)).await;
        assert!(queue.receive().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        let second = queue.receive().unwrap();
        assert_eq!((second.receives, second.first_received), (2, first.first_received));
        queue.change_visibility(&first, Duration::ZERO);
        assert!(queue.receive().is_none(), "its receipt is not the last one");
        queue.change_visibility(&second, ERROR_VISIBILITY);
        assert!(queue.receive().is_none());
        tokio::time::advance(ERROR_VISIBILITY).await;
        let third = queue.receive().unwrap();
        queue.delete(&third);
        queue.delete(&third);
        tokio::time::advance(VISIBILITY * 2).await;
        assert!(queue.receive().is_none());
        assert_eq!(queue.counts(), Counts { sent: 1, received: 3, deleted: 1, dead_letters: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_rejected_too_often_is_a_dead_letter() {
        let queue = Queue::new(VISIBILITY, 2);
        queue.send();
        for _ in 0..2 {
            let received = queue.receive().unwrap();
            queue.change_visibility(&received, Duration::ZERO);
        }
        assert!(queue.receive().is_none());
        assert_eq!(queue.counts(), Counts { sent: 1, received: 2, deleted: 0, dead_letters: 1 });
        assert_eq!((queue.counts().left(), queue.receives()), (0, BTreeMap::from([(2, 1)])));
    }
}
