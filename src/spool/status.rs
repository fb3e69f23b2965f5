//! What became of a segment, for those who hold a receipt: nothing is kept per job.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use crate::segment::{Compression, SegmentId};

/// Segments that are stored are remembered up to this many, so that who asks soon is answered without the store.
const REMEMBERED_MAX: usize = 4096;

/// Where a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// In the spool, open or on its way.
    Spooled,
    /// In the store, save for the jobs at these places, which were damaged on disk, or would have been if there were any.
    Stored {
        /// Empty, but for damage.
        dead: Arc<[Range<u32>]>,
    },
    /// Not in the store and never to be: no frame of it was good.
    Dead,
}

impl State {
    /// Whether the job at this place is not in the store and never will be.
    pub fn is_dead(&self, place: u32) -> bool {
        match self {
            Self::Spooled => false,
            Self::Stored { dead } => dead.iter().any(|places| places.contains(&place)),
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
    /// Jobs committed so far; for a segment of a dead process, unknown before it was read.
    jobs: AtomicU32,
    /// Places of jobs of which it is not known whether they ever were, and which are lost if so.
    in_doubt: OnceLock<Range<u32>>,
    state: watch::Sender<State>,
}

impl SegmentStatus {
    fn new(id: SegmentId, compression: Compression, jobs: u32) -> Arc<Self> {
        let (key, state) = (OnceLock::new(), watch::Sender::new(State::Spooled));
        Arc::new(Self { id, compression, key, jobs: AtomicU32::new(jobs), in_doubt: OnceLock::new(), state })
    }

    /// Names the segment.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// The codec of its frames.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The object's key, under `prefix`, which is the same for the whole process.
    pub fn key(&self, prefix: &str) -> &str {
        self.key.get_or_init(|| self.id.key(prefix, self.compression))
    }

    /// Whether the segment has a job at this place.
    pub fn has_job(&self, place: u32) -> bool {
        place < self.jobs.load(Ordering::Acquire)
    }

    /// Says how many jobs are committed.
    pub(super) fn committed(&self, jobs: u32) {
        self.jobs.store(jobs, Ordering::Release);
    }

    /// Whether it is not known if there ever was a job at this place, which is lost if so.
    pub fn is_possibly_lost(&self, place: u32) -> bool {
        self.in_doubt.get().is_some_and(|places| places.contains(&place))
    }

    /// Says at which places it is not known whether there were jobs.
    pub(super) fn doubt(&self, places: Range<u32>) {
        let _: Result<(), Range<u32>> = self.in_doubt.set(places);
    }

    /// Where the segment is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the segment is in the spool no more. Whoever stops waiting leaves nothing behind.
    pub async fn settled(&self) -> State {
        let mut states = self.state.subscribe();
        let settled = states.wait_for(|state| *state != State::Spooled).await.map(|state| state.clone());
        // The sender is in `self`.
        settled.unwrap_or_else(|_| self.state())
    }
}

/// The segments of this process.
///
/// Locked to look one up, and by the pipeline when one is opened and when it is settled; never during I/O, and not for a
/// commit.
#[derive(Debug, Default)]
pub struct Segments(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    segments: HashMap<SegmentId, Arc<SegmentStatus>>,
    /// Those that are settled, the oldest first.
    settled: VecDeque<SegmentId>,
}

impl Segments {
    /// The segment, if this process knows it.
    pub fn find(&self, id: SegmentId) -> Option<Arc<SegmentStatus>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).segments.get(&id).cloned()
    }

    /// A segment that was opened, with no jobs, or adopted, with nobody knows how many.
    pub(super) fn add(&self, id: SegmentId, compression: Compression, jobs: u32) -> Arc<SegmentStatus> {
        let status = SegmentStatus::new(id, compression, jobs);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.segments.insert(id, Arc::clone(&status));
        status
    }

    /// A segment that was opened and came to nothing.
    pub(super) fn forget(&self, id: SegmentId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).segments.remove(&id);
    }

    /// How many segments are in the spool, open ones among them.
    pub fn spooled(&self) -> usize {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.segments.values().filter(|segment| *segment.state.borrow() == State::Spooled).count()
    }

    /// The segment is in the spool no more: wakes who waits for that.
    pub fn settle(&self, status: &SegmentStatus, state: State) {
        status.state.send_replace(state);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.settled.push_back(status.id);
        if known.settled.len() > REMEMBERED_MAX
            && let Some(oldest) = known.settled.pop_front()
        {
            known.segments.remove(&oldest);
        }
    }
}
