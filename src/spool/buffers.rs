//! Buffers for segments on their way from disk to the store.
//!
//! Room is counted in bytes, whatever the settings were when a segment was written. A large segment is read into a buffer that was used before: an allocator that is asked for megabytes by one thread after
//! the other keeps some for each of them, and a backlog of gigabytes would be drained with three times the memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All segments that are in memory together; a larger one is alone.
const TOTAL_BYTES: usize = 96 << 20;
/// They are counted in units of this.
const UNIT: usize = 64 * 1024;
const UNITS: usize = TOTAL_BYTES / UNIT;
/// A segment from this size on is read into a buffer that was used before.
const REUSED_MIN_BYTES: usize = 1 << 20;

/// The buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    room: Arc<Semaphore>,
    /// A larger buffer is not kept.
    kept_max_bytes: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

/// Room in memory for one segment, and the way its buffer goes back.
#[derive(Debug)]
pub(super) struct Room {
    buffers: Arc<Buffers>,
    _permit: OwnedSemaphorePermit,
}

impl Buffers {
    /// For segments that are expected to grow to `expected_bytes`.
    pub(super) fn new(expected_bytes: usize) -> Self {
        let kept_max_bytes = expected_bytes.saturating_mul(2).min(TOTAL_BYTES);
        Self { room: Arc::new(Semaphore::new(UNITS)), kept_max_bytes, idle: Mutex::default() }
    }

    /// A buffer for a segment of `len` bytes, once there is room for it.
    pub(super) async fn take(self: &Arc<Self>, len: usize) -> (Vec<u8>, Option<Room>) {
        let units = len.div_ceil(UNIT).clamp(1, UNITS);
        // It is never closed; if it were, memory is what would not be bounded.
        let permit = Arc::clone(&self.room).acquire_many_owned(units as u32).await.ok();
        let room = permit.map(|permit| Room { buffers: Arc::clone(self), _permit: permit });
        let used = if len < REUSED_MIN_BYTES { None } else { self.lock().pop() };
        (used.unwrap_or_default(), room)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Gives the buffer back, unless somebody still reads it.
    pub(super) fn give_back(self, body: Bytes) {
        if !body.is_unique() {
            return;
        }
        let buffer = Vec::from(body);
        if (REUSED_MIN_BYTES..=self.buffers.kept_max_bytes).contains(&buffer.capacity()) {
            self.buffers.lock().push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn segments_wait_for_room_and_one_that_is_larger_than_all_of_it_is_alone() {
        let buffers = Arc::new(Buffers::new(8 << 20));
        let mut held = Vec::new();
        while let Ok(taken) = timeout(Duration::from_secs(1), buffers.take(8 << 20)).await {
            held.push(taken);
        }
        assert_eq!(held.len(), TOTAL_BYTES / (8 << 20));
        held.clear();
        let alone = buffers.take(10 * TOTAL_BYTES).await;
        assert!(timeout(Duration::from_secs(1), buffers.take(1)).await.is_err());
        drop(alone);
        assert!(buffers.take(1).await.1.is_some());
    }

    #[tokio::test]
    async fn a_large_buffer_is_used_again_and_one_that_is_too_large_is_not_kept() {
        let buffers = Arc::new(Buffers::new(4 << 20));
        let (mut buffer, room) = buffers.take(2 << 20).await;
        buffer.reserve(2 << 20);
        buffer.extend_from_slice(&[7; 1000]);
        let (place, capacity) = (buffer.as_ptr(), buffer.capacity());
        room.unwrap().give_back(Bytes::from(buffer));
        assert!(buffers.take(1000).await.0.capacity() == 0, "a small segment does not need it");
        let (mut again, room) = buffers.take(2 << 20).await;
        assert_eq!((again.as_ptr(), again.capacity()), (place, capacity));
        again.reserve_exact(9 << 20);
        room.unwrap().give_back(Bytes::from(again));
        assert_eq!(buffers.take(2 << 20).await.0.capacity(), 0);
    }
}
