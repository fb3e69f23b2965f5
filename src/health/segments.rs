//! Segments that fail on their own: their file cannot be read, or the store refuses them while it takes others.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Outage, TROUBLE_AFTER};
use crate::log_throttle::LogThrottle;
use crate::segment::SegmentId;

/// A device that is away may hold thousands of segments.
static LOG: LogThrottle = LogThrottle::new(Duration::from_secs(10));

/// Which side does not do its work for a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its file cannot be read.
    Spool,
    /// The store does not take it.
    Store,
}

/// The segments that fail on their own now: at most as many as wait for their upload.
#[derive(Debug, Default)]
pub struct FailingSegments(Mutex<BTreeMap<SegmentId, (Side, Outage)>>);

impl FailingSegments {
    /// The segment failed, with this error.
    pub fn failed(&self, id: SegmentId, side: Side, error: &impl ToString) {
        let mut segments = self.lock();
        let before = segments.remove(&id).filter(|(before, _)| *before == side).map(|(_, trouble)| trouble);
        let mut trouble = Outage::again(before, format!("segment {id}: {}", error.to_string()), Instant::now());
        if !trouble.is_declared && trouble.began.elapsed() >= TROUBLE_AFTER {
            if let Some(suppressed) = LOG.permit() {
                tracing::error!(segment = %id, ?side, error = error.to_string(), suppressed, "a segment cannot be uploaded; others go on, and it is tried again");
            }
            trouble.is_declared = true;
        }
        segments.insert(id, (side, trouble));
    }

    /// The segment is through on this side.
    pub fn passed(&self, id: SegmentId, side: Side) {
        let mut segments = self.lock();
        if segments.get(&id).is_some_and(|(failing, _)| *failing == side) {
            segments.remove(&id);
        }
    }

    /// What the oldest segment that fails on this side reports; one failed attempt is no trouble yet.
    pub fn outage(&self, side: Side) -> Option<Outage> {
        let segments = self.lock();
        let mut failing = segments.values().filter(|(failing, _)| *failing == side).map(|(_, trouble)| trouble);
        failing.find(|trouble| trouble.began.elapsed() >= TROUBLE_AFTER).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SegmentId, (Side, Outage)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
