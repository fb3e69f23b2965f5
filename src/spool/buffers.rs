//! Buffers for segments on their way from disk to the store.
//!
//! A large segment is read into a buffer that was used before: an allocator that is asked for megabytes by one thread after
//! the other keeps some for each of them, and a backlog of gigabytes would be drained with three times the memory.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All large segments that are in memory together, one at least.
const LARGE_TOTAL_BYTES: usize = 96 << 20;
/// A smaller segment is read into a buffer of its own: `MAX_WORKERS` bounds those.
const LARGE_MIN_BYTES: usize = 1 << 20;

/// The buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Vec<u8>>>,
}

/// One's turn with a large buffer.
#[derive(Debug)]
pub(super) struct Turn {
    buffers: Arc<Buffers>,
    _permit: OwnedSemaphorePermit,
}

impl Buffers {
    /// For segments that are expected to grow to `expected_bytes`.
    pub(super) fn new(expected_bytes: usize) -> Self {
        let turns = (LARGE_TOTAL_BYTES / expected_bytes.max(LARGE_MIN_BYTES)).max(1);
        Self { turns: Arc::new(Semaphore::new(turns)), idle: Mutex::default() }
    }

    /// A buffer for a segment of `len` bytes; waits for one if the segment is large.
    pub(super) async fn take(self: &Arc<Self>, len: usize) -> (Vec<u8>, Option<Turn>) {
        if len < LARGE_MIN_BYTES {
            return (Vec::new(), None);
        }
        // It is never closed; if it were, memory is what would not be bounded.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        let turn = turn.map(|permit| Turn { buffers: Arc::clone(self), _permit: permit });
        (self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default(), turn)
    }
}

impl Turn {
    /// Gives the buffer back, unless somebody still reads it.
    pub(super) fn give_back(self, body: Bytes) {
        if body.is_unique() {
            self.buffers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(Vec::from(body));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_segments_take_turns_with_the_same_buffers_and_small_ones_do_not_wait() {
        let buffers = Arc::new(Buffers::new(LARGE_TOTAL_BYTES / 2));
        let (mut buffer, turn) = buffers.take(LARGE_MIN_BYTES).await;
        let _other = buffers.take(LARGE_TOTAL_BYTES).await;
        assert!(timeout(Duration::from_secs(1), buffers.take(LARGE_MIN_BYTES)).await.is_err());
        assert!(buffers.take(LARGE_MIN_BYTES - 1).await.1.is_none());
        buffer.extend_from_slice(&[7; 1000]);
        buffer.reserve(5000);
        let (place, capacity) = (buffer.as_ptr(), buffer.capacity());
        turn.unwrap().give_back(Bytes::from(buffer));
        let (again, _turn) = buffers.take(LARGE_MIN_BYTES).await;
        assert_eq!((again.as_ptr(), again.capacity()), (place, capacity));
    }
}
