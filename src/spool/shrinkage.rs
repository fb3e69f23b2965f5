//! How much smaller small frames become when they are packed anew. An object is to be of `OBJECT_MAX_BYTES` as it is stored,
//! and a segment has to be sealed before that is known: the last one like it has shown it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::segment::FrameSizes;

const WHOLE: usize = 1000;
/// A segment never grows to more than twice its object.
const LEAST: usize = WHOLE / 2;

/// What became of the last segment of small frames, in thousandths of what it was.
#[derive(Debug)]
pub(super) struct Shrinkage(AtomicUsize);

impl Default for Shrinkage {
    /// Nothing was seen to shrink.
    fn default() -> Self {
        Self(AtomicUsize::new(WHOLE))
    }
}

impl Shrinkage {
    /// What to expect a byte to become: 0.5 to 1.
    pub(super) fn now(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 / WHOLE as f64
    }

    /// A segment of so many bytes was packed anew. One of a few lines says nothing of a large one.
    pub(super) fn saw(&self, sizes: FrameSizes, before: usize, after: usize) {
        if sizes.fill_a_frame() {
            let share = after.saturating_mul(WHOLE).div_ceil(before.max(1));
            self.0.store(share.clamp(LEAST, WHOLE), Ordering::Relaxed);
        }
    }
}
