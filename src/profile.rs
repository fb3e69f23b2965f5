//! Profiles of the running process: the CPU time of its threads, and the heap in builds with the feature `heap-profile`.
//!
//! Nothing is installed until a profile is taken, and no timer runs while none is. A process has one profiler, so one profile is taken
//! at a time, of either kind: the allocator's sampling walks stacks as well, and one would distort the other.

mod cpu;
mod flamegraph;
mod heap;
mod pprof;
mod stacks;
mod symbols;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use cpu::{CpuSettings, RATE_DEFAULT, RATE_MAX, SECONDS_DEFAULT, SECONDS_MAX, record};
pub(crate) use flamegraph::{content_security_policy, page};
pub(crate) use heap::heap;
use parking_lot::Mutex;
pub(crate) use pprof::encode;

/// How long no profile begins after one whose client has left.
const CANCEL_PAUSE: Duration = Duration::from_secs(5);

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    /// Another profile is being taken.
    #[error("another profile is in progress, or its client has just left: retry in {} s", .retry_after.as_secs())]
    Busy {
        /// When it is expected to end, in whole seconds and at least one.
        retry_after: Duration,
    },
    /// The shutdown has begun.
    #[error("the server is draining: take profiles of a running server")]
    Draining,
    /// The profiler keeps samples that exceed its memory in a temporary file.
    #[error("the profiler cannot create a temporary file: make TMPDIR (default /tmp) writable")]
    TemporaryFile(#[source] std::io::Error),
    /// The build lacks the heap profiler.
    #[error("this build has no heap profiler: build with cargo build --release --features heap-profile")]
    #[cfg_attr(feature = "heap-profile", expect(dead_code, reason = "this build has it"))]
    NoHeapProfiler,
    /// The profiler does not start, or its result cannot be read.
    #[error("the profiler failed: {0}")]
    Failed(String),
}

/// Lets one profile be taken at a time. Clones are the same slot.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProfileSlot(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    is_taken: bool,
    /// When the profile is expected to end, or when the next one may begin.
    until: Option<Instant>,
}

/// The right to take a profile. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct ProfilePermit {
    slot: ProfileSlot,
    /// How long no other profile begins after this one.
    pause: Duration,
}

impl ProfileSlot {
    /// Takes the slot for a profile that is expected to last for `duration`.
    pub(crate) fn acquire(&self, duration: Duration) -> Result<ProfilePermit, ProfileError> {
        let mut slot = self.0.lock();
        let now = Instant::now();
        let left = slot.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if slot.is_taken || !left.is_zero() {
            return Err(ProfileError::Busy { retry_after: Duration::from_secs(left.as_secs() + 1) });
        }
        *slot = Slot { is_taken: true, until: Some(now + duration) };
        Ok(ProfilePermit { slot: self.clone(), pause: Duration::ZERO })
    }
}

impl ProfilePermit {
    /// The client has left: starting the profiler is the dearest part of a profile, so the next one waits.
    pub(crate) fn cancelled(&mut self) {
        self.pause = CANCEL_PAUSE;
    }
}

impl Drop for ProfilePermit {
    fn drop(&mut self) {
        *self.slot.0.lock() = Slot { is_taken: false, until: Some(Instant::now() + self.pause) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_profile_is_told_when_to_retry_and_a_dropped_permit_frees_the_slot() {
        let slot = ProfileSlot::default();
        let permit = slot.acquire(Duration::from_secs(30)).unwrap();
        let Err(ProfileError::Busy { retry_after }) = slot.acquire(Duration::ZERO) else {
            panic!("two profiles at once");
        };
        assert!((1..=30).contains(&retry_after.as_secs()), "{retry_after:?}");
        drop(permit);
        let mut cancelled = slot.acquire(Duration::ZERO).unwrap();
        cancelled.cancelled();
        drop(cancelled);
        let Err(ProfileError::Busy { retry_after }) = slot.acquire(Duration::ZERO) else { panic!("no pause") };
        assert!(retry_after <= CANCEL_PAUSE, "{retry_after:?}");
    }
}
