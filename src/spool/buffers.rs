//! Buffers for segments that are being uploaded from disk.
//!
//! Memory is limited in bytes, whatever the settings were when a segment was written. Large buffers are reused: the allocator
//! keeps freed megabytes for each thread, so a large backlog would be uploaded with three times the memory.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The memory for all segments together. A segment that is larger is loaded alone.
const TOTAL_BYTES: usize = 96 << 20;
/// The bytes of one permit of the semaphore.
const UNIT: usize = 64 * 1024;
const UNITS: usize = TOTAL_BYTES / UNIT;
/// A segment of at least this size is read into a reused buffer.
const REUSED_MIN_BYTES: usize = 1 << 20;

/// The buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    units: Arc<Semaphore>,
    /// A larger buffer is not kept.
    kept_max_bytes: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

/// The right to use memory for one segment.
#[derive(Debug)]
pub(super) struct BufferPermit {
    buffers: Arc<Buffers>,
    _units: OwnedSemaphorePermit,
}

impl Buffers {
    /// For segments that are expected to grow to `expected_bytes`.
    pub(super) fn new(expected_bytes: usize) -> Self {
        let kept_max_bytes = expected_bytes.saturating_mul(2).min(TOTAL_BYTES);
        Self { units: Arc::new(Semaphore::new(UNITS)), kept_max_bytes, idle: Mutex::default() }
    }

    /// Waits for memory for a segment of `len` bytes, and returns an empty buffer.
    pub(super) async fn acquire(self: &Arc<Self>, len: usize) -> (Vec<u8>, Option<BufferPermit>) {
        let units = len.div_ceil(UNIT).clamp(1, UNITS);
        // The semaphore is never closed.
        let units = Arc::clone(&self.units).acquire_many_owned(units as u32).await.ok();
        let permit = units.map(|units| BufferPermit { buffers: Arc::clone(self), _units: units });
        let reused = if len < REUSED_MIN_BYTES { None } else { self.idle.lock().pop() };
        let mut buffer = reused.unwrap_or_default();
        // It still has the segment that was read into it last.
        buffer.clear();
        (buffer, permit)
    }
}

impl BufferPermit {
    /// Keeps the buffer for another segment, unless it is still in use.
    pub(super) fn recycle(self, body: Bytes) {
        if !body.is_unique() {
            return;
        }
        let buffer = Vec::from(body);
        if (REUSED_MIN_BYTES..=self.buffers.kept_max_bytes).contains(&buffer.capacity()) {
            self.buffers.idle.lock().push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn segments_wait_for_memory_and_one_that_exceeds_the_total_is_alone() {
        let buffers = Arc::new(Buffers::new(8 << 20));
        let mut acquired = Vec::new();
        while let Ok(buffer) = timeout(Duration::from_secs(1), buffers.acquire(8 << 20)).await {
            acquired.push(buffer);
        }
        assert_eq!(acquired.len(), TOTAL_BYTES / (8 << 20));
        acquired.clear();
        let alone = buffers.acquire(10 * TOTAL_BYTES).await;
        assert!(timeout(Duration::from_secs(1), buffers.acquire(1)).await.is_err());
        drop(alone);
        assert!(buffers.acquire(1).await.1.is_some());
    }

    #[tokio::test]
    async fn a_large_buffer_is_reused_and_one_that_is_too_large_is_not_kept() {
        let buffers = Arc::new(Buffers::new(4 << 20));
        let (mut buffer, permit) = buffers.acquire(2 << 20).await;
        buffer.reserve(2 << 20);
        buffer.extend_from_slice(&[7; 1000]);
        let (address, capacity) = (buffer.as_ptr(), buffer.capacity());
        permit.unwrap().recycle(Bytes::from(buffer));
        assert!(buffers.acquire(1000).await.0.capacity() == 0, "a small segment does not need it");
        let (mut reused, permit) = buffers.acquire(REUSED_MIN_BYTES).await;
        assert_eq!((reused.as_ptr(), reused.capacity(), reused.len()), (address, capacity, 0));
        reused.reserve_exact(9 << 20);
        permit.unwrap().recycle(Bytes::from(reused));
        assert_eq!(buffers.acquire(2 << 20).await.0.capacity(), 0);
    }
}
