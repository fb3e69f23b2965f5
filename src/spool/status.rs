//! The state of each segment, for receipts. Nothing is kept for each job.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::segment::{Compression, SegmentId};

/// The most settled segments that are remembered. A lookup of one of them needs no call to the store.
const REMEMBERED_MAX: usize = 4096;

/// The state of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentState {
    /// In the spool, open or sealed.
    Spooled,
    /// In the store, except for the jobs with these indexes, which were damaged on disk.
    Stored {
        /// Empty without damage. Includes the indexes of jobs that are possibly lost.
        dead: Arc<[Range<u32>]>,
    },
    /// Lost: no frame of it was valid.
    Dead,
}

impl SegmentState {
    /// Whether the job with this index is lost.
    pub fn is_dead(&self, index: u32) -> bool {
        match self {
            Self::Spooled => false,
            Self::Stored { dead } => dead.iter().any(|range| range.contains(&index)),
            Self::Dead => true,
        }
    }
}

/// One segment, from its opening until it is forgotten.
#[derive(Debug)]
pub struct SegmentStatus {
    id: SegmentId,
    compression: Compression,
    key: OnceLock<String>,
    /// The jobs committed so far. The maximum for an adopted segment that was not sealed, until it is read.
    jobs: AtomicU32,
    /// The indexes of jobs that are lost if they were acknowledged, which is unknown.
    possibly_lost: OnceLock<Range<u32>>,
    state: watch::Sender<SegmentState>,
}

impl SegmentStatus {
    fn new(id: SegmentId, compression: Compression, jobs: u32) -> Arc<Self> {
        let (key, possibly_lost, state) = (OnceLock::new(), OnceLock::new(), watch::Sender::new(SegmentState::Spooled));
        Arc::new(Self { id, compression, key, jobs: AtomicU32::new(jobs), possibly_lost, state })
    }

    /// The id of the segment.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// The codec of its frames.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The key of its object. `prefix` is the same in every call.
    pub fn key(&self, prefix: &str) -> &str {
        self.key.get_or_init(|| self.id.key(prefix, self.compression))
    }

    /// Whether the segment has a job with this index.
    pub fn has_job(&self, index: u32) -> bool {
        index < self.jobs.load(Ordering::Acquire)
    }

    pub(super) fn set_jobs(&self, jobs: u32) {
        self.jobs.store(jobs, Ordering::Release);
    }

    /// Whether it is unknown if a job with this index was acknowledged, in which case it is lost.
    pub fn is_possibly_lost(&self, index: u32) -> bool {
        self.possibly_lost.get().is_some_and(|range| range.contains(&index))
    }

    pub(super) fn set_possibly_lost(&self, indexes: Range<u32>) {
        let _: Result<(), Range<u32>> = self.possibly_lost.set(indexes);
    }

    /// The current state.
    pub fn state(&self) -> SegmentState {
        self.state.borrow().clone()
    }

    /// Waits until the segment has left the spool. Cancel safe.
    pub async fn settled(&self) -> SegmentState {
        let mut states = self.state.subscribe();
        let settled = states.wait_for(|state| *state != SegmentState::Spooled).await.map(|state| state.clone());
        // The sender is in `self`.
        settled.unwrap_or_else(|_| self.state())
    }
}

/// The segments that this process knows.
///
/// The lock is taken for a lookup, and when a segment is opened or settled, but not during I/O and not for a commit.
#[derive(Debug, Default)]
pub struct Segments(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    segments: HashMap<SegmentId, Arc<SegmentStatus>>,
    /// Those in the spool, oldest first: the order of ids is the order of time.
    spooled: BTreeSet<SegmentId>,
    /// Those that have left the spool, oldest first.
    settled: VecDeque<SegmentId>,
}

impl Segments {
    /// The segment with this id, if this process knows it.
    pub fn find(&self, id: SegmentId) -> Option<Arc<SegmentStatus>> {
        self.0.read().segments.get(&id).cloned()
    }

    /// Adds a segment that was opened or adopted.
    pub(super) fn add(&self, id: SegmentId, compression: Compression, jobs: u32) -> Arc<SegmentStatus> {
        let status = SegmentStatus::new(id, compression, jobs);
        let mut known = self.0.write();
        known.segments.insert(id, Arc::clone(&status));
        known.spooled.insert(id);
        drop(known);
        status
    }

    /// Removes a segment that nothing was committed to.
    pub(super) fn forget(&self, id: SegmentId) {
        let mut known = self.0.write();
        known.segments.remove(&id);
        known.spooled.remove(&id);
    }

    /// The number of segments in the spool, including open ones.
    pub fn spooled(&self) -> usize {
        self.0.read().spooled.len()
    }

    /// When the oldest segment in the spool that holds jobs was opened.
    pub fn oldest_spooled(&self) -> Option<SystemTime> {
        let known = self.0.read();
        // Only the open segments may have no job yet, so the first ones decide.
        let holds_jobs = |id: &&SegmentId| known.segments.get(id).is_some_and(|segment| segment.has_job(0));
        known.spooled.iter().find(holds_jobs).map(|id| id.opened_at())
    }

    /// The segment has left the spool: wakes those that wait for it.
    pub fn settle(&self, status: &SegmentStatus, state: SegmentState) {
        status.state.send_replace(state);
        let mut known = self.0.write();
        known.spooled.remove(&status.id);
        known.settled.push_back(status.id);
        if known.settled.len() > REMEMBERED_MAX
            && let Some(oldest) = known.settled.pop_front()
        {
            known.segments.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(segments: &Segments, jobs: u32) -> Arc<SegmentStatus> {
        segments.add(SegmentId::new(SystemTime::now()), Compression::Gzip, jobs)
    }

    #[tokio::test]
    async fn a_segment_is_known_until_later_ones_have_settled() {
        let segments = Segments::default();
        let first = add(&segments, 0);
        assert_eq!((segments.spooled(), segments.oldest_spooled()), (1, None), "it holds no job");
        first.set_jobs(2);
        assert_eq!([0, 1, 2].map(|index| first.has_job(index)), [true, true, false]);
        assert_eq!(segments.oldest_spooled(), Some(first.id().opened_at()));
        assert!(first.key("p").starts_with("p/dt="));
        segments.settle(&first, SegmentState::Stored { dead: Arc::from([1..2, 5..6]) });
        assert_eq!((segments.spooled(), segments.oldest_spooled()), (0, None));
        let state = first.settled().await;
        assert_eq!([0, 1].map(|index| state.is_dead(index)), [false, true]);
        assert!(!SegmentState::Spooled.is_dead(0) && SegmentState::Dead.is_dead(0));
        for _ in 1..REMEMBERED_MAX {
            segments.settle(&add(&segments, 1), SegmentState::Dead);
        }
        assert!(segments.find(first.id()).is_some());
        segments.settle(&add(&segments, 1), SegmentState::Dead);
        assert!(segments.find(first.id()).is_none());
        let empty = add(&segments, 0);
        segments.forget(empty.id());
        assert!(segments.find(empty.id()).is_none() && segments.spooled() == 0);
    }

    #[test]
    fn jobs_whose_acknowledgement_is_unknown_are_possibly_lost() {
        let status = add(&Segments::default(), 3);
        assert!(!status.is_possibly_lost(1));
        status.set_possibly_lost(1..2);
        assert_eq!([0, 1, 2].map(|index| status.is_possibly_lost(index)), [false, true, false]);
    }
}
