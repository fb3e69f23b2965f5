//! Segments that fail on their own: their file cannot be read, or the store rejects them while it takes others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Outage;
use crate::log_throttle::LogThrottle;
use crate::segment::SegmentId;

/// Thousands of segments may fail at the same time when a device is away.
static LOG: LogThrottle = LogThrottle::new(Duration::from_secs(10));

/// Where a segment fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its file cannot be read.
    Spool,
    /// The store does not take it.
    Store,
}

/// The segments that currently fail on their own: at most as many as the backlog holds.
#[derive(Debug, Default)]
pub struct FailingSegments(Mutex<BTreeMap<SegmentId, (Side, Outage)>>);

impl FailingSegments {
    /// An attempt with the segment failed.
    pub fn failed(&self, id: SegmentId, side: Side, error: &impl ToString) {
        let mut segments = self.0.lock();
        let before = segments.remove(&id).filter(|(before, _)| *before == side).map(|(_, outage)| outage);
        let mut outage = Outage::after(before, format!("segment {id}: {}", error.to_string()), Instant::now());
        if !outage.is_reported && outage.has_lasted() {
            if let Some(suppressed) = LOG.permit() {
                tracing::error!(segment = %id, ?side, error = error.to_string(), suppressed, "a segment cannot be uploaded; it is retried, and other segments are uploaded meanwhile");
            }
            outage.is_reported = true;
        }
        segments.insert(id, (side, outage));
    }

    /// The segment no longer fails on this side.
    pub fn succeeded(&self, id: SegmentId, side: Side) {
        let mut segments = self.0.lock();
        if segments.get(&id).is_some_and(|(failing, _)| *failing == side) {
            segments.remove(&id);
        }
    }

    /// The outage of the oldest segment that fails on this side and has done so for a while.
    pub fn outage(&self, side: Side) -> Option<Outage> {
        let segments = self.0.lock();
        let mut failing = segments.values().filter(|(failing, _)| *failing == side).map(|(_, outage)| outage);
        failing.find(|outage| outage.has_lasted()).cloned()
    }
}
