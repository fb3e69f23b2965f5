//! Segments in the broker.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::attempts::{Attempts, LoadError};
use super::broker_share::BrokerShare;
use super::buffers::{BufferPermit, Buffers};
use super::load::{Frames, compact};
use super::sealed::{SealedSegment, Source};
use super::share::SpoolShare;
use super::space::{SegmentCharge, Space};
use super::status::{SegmentState, SegmentStatus};
use super::{Spool, SpoolError};
use crate::broker::{AppendError, Appender, Broker, BrokerState, Replica, Settled, WorkItem};
use crate::segment::file::{FrameCounts, append_frame};
use crate::segment::salvage::{Salvage, salvage};
use crate::segment::{Committed, Compression, SegmentId, SegmentName};
use crate::trace::SegmentTrace;

/// The first read of a segment asks any replica. If that one lacks the end, or has damage, the next reads ask the leader of the stream.
const LEADER_FAILURES_MIN: u32 = 1;
/// What the leader has of a segment after so many deliveries is all that is left of it. A new leader may need some time to catch up.
pub(crate) const DELIVERIES_MIN: u32 = 6;
/// The delay of a segment that failed here repeatedly, before it is delivered again.
const REDELIVERY_DELAY: Duration = Duration::from_secs(5);
/// A segment is read without asking for its size if its name in the work queue says that it is not larger.
const UNCHECKED_MAX_BYTES: usize = 16 << 20;

/// The segments of this process in the broker.
#[derive(Debug)]
pub(super) struct RemoteSpool {
    pub(super) broker: Arc<Broker>,
    buffers: Arc<Buffers>,
    /// The bytes of the segments that this process appends to or has ended, and that are not stored yet.
    own: Arc<Space>,
    ending: mpsc::UnboundedSender<EndedSegment>,
    /// The segments that this process has ended and that are not stored yet.
    ended: Mutex<HashMap<SegmentId, Ended>>,
    /// The number of them that are not in the work queue yet.
    unqueued: watch::Sender<usize>,
}

/// What this process knows of a segment that it has ended.
#[derive(Debug)]
struct Ended {
    status: Arc<SegmentStatus>,
    opened: Instant,
    committed: Committed,
    trace: SegmentTrace,
    /// Whether it is in the work queue.
    is_queued: bool,
    /// Jobs that were acknowledged, and that the broker does not have.
    lost: Option<Range<u32>>,
    /// Its bytes, which count until it is stored.
    _charge: SegmentCharge,
    /// Since when neither the broker nor the store has it; none if one of them does.
    missing_since: Option<Instant>,
}

/// A segment that takes no more commits of this process, and is not in the work queue yet.
#[derive(Debug)]
pub(crate) struct EndedSegment {
    /// Its name, with what was committed to it as far as this process knows.
    pub(crate) name: SegmentName,
    /// Whether the broker may hold more, or may receive more.
    pub(crate) is_unsure: bool,
}

/// The segments that [`Spool`] ends, for the task that adds them to the work queue.
pub(crate) type EndedSegments = mpsc::UnboundedReceiver<EndedSegment>;

/// A segment of this process that has been settled.
#[derive(Debug)]
pub(crate) struct SettledSegment {
    /// What was committed to it.
    pub(crate) committed: Committed,
    /// When it was opened.
    pub(crate) opened: Instant,
}

/// A segment in the broker that takes no more commits.
#[derive(Debug)]
pub(super) struct EndedRemote {
    pub(super) segment: RemoteSegment,
    pub(super) status: Arc<SegmentStatus>,
    pub(super) opened: Instant,
    pub(super) trace: SegmentTrace,
    /// Its jobs and payloads, as far as this process knows.
    pub(super) counts: (u32, u32),
}

/// An open segment in the broker.
#[derive(Debug)]
pub(super) struct RemoteSegment {
    appender: Appender,
    id: SegmentId,
    data_len: usize,
    charge: SegmentCharge,
}

impl RemoteSpool {
    pub(super) fn new(broker: Arc<Broker>, expected_bytes: usize) -> (Self, EndedSegments) {
        let (ending, ended) = mpsc::unbounded_channel();
        let buffers = Arc::new(Buffers::new(expected_bytes));
        let (own, unqueued) = (Arc::new(Space::in_broker()), watch::Sender::new(0));
        (Self { broker, buffers, own, ending, ended: Mutex::default(), unqueued }, ended)
    }

    /// A share of `percent` of the room in the broker.
    pub(super) fn share(&self, percent: usize) -> BrokerShare {
        BrokerShare::new(Arc::clone(&self.broker), Arc::clone(self.own.bound()), percent)
    }

    pub(super) fn open(&self, id: SegmentId, compression: Compression) -> Result<RemoteSegment, SpoolError> {
        self.check()?;
        let name = SegmentName { id, compression, committed: None };
        let appender = Appender::new(Arc::clone(&self.broker), name);
        Ok(RemoteSegment { appender, id, data_len: 0, charge: self.own.count(0) })
    }

    /// Whether a commit can succeed.
    pub(super) fn check(&self) -> Result<(), SpoolError> {
        let BrokerState { failing, is_full, .. } = self.broker.state();
        match failing {
            None => Ok(()),
            Some(_) if is_full => Err(SpoolError::Full),
            Some(reason) => Err(SpoolError::Broker(reason)),
        }
    }

    /// Passes an ended segment to the work queue. Returns false if it holds no jobs.
    fn end(&self, ended: EndedRemote) -> bool {
        let EndedRemote { segment, status, opened, trace, counts: (jobs, payloads) } = ended;
        let RemoteSegment { appender, id, charge, .. } = segment;
        let is_unsure = appender.is_unsure();
        if jobs == 0 && !is_unsure {
            return false;
        }
        let committed = Committed { jobs, payloads, bytes: appender.len() };
        let name = SegmentName { id, compression: status.compression(), committed: Some(committed) };
        let (is_queued, lost, missing_since) = (false, None, None);
        let ended = Ended { status, opened, committed, trace, is_queued, lost, _charge: charge, missing_since };
        self.ended.lock().insert(id, ended);
        self.unqueued.send_modify(|count| *count += 1);
        // The receiver lives as long as the process.
        let _: Result<(), _> = self.ending.send(EndedSegment { name, is_unsure });
        true
    }

    /// The bytes to read of a segment. The work queue may name more than was committed, so a size that would keep other segments
    /// waiting for memory is looked up.
    async fn len_of(&self, item: &WorkItem) -> Result<usize, LoadError> {
        let claimed = item.committed.bytes;
        if claimed <= UNCHECKED_MAX_BYTES {
            return Ok(claimed);
        }
        let tail = self.broker.tail_of(item.name).await.map_err(|error| LoadError::Failed(error.to_string()))?;
        Ok(tail.map_or(0, |tail| tail.committed.bytes).min(claimed))
    }

    async fn read(
        &self,
        item: &WorkItem,
        failures: u32,
    ) -> Result<(Vec<u8>, Salvage, Option<BufferPermit>), LoadError> {
        let bytes = item.committed.bytes;
        let len = self.len_of(item).await?;
        let (mut file, permit) = self.buffers.acquire(len).await;
        // At once: a buffer that grows is copied.
        file.try_reserve_exact(len).map_err(|_| {
            LoadError::Failed(format!(
                "no memory for a segment of {len} bytes: give this worker more memory, and lower OBJECT_MAX_BYTES of the front ends"
            ))
        })?;
        let replica = if failures >= LEADER_FAILURES_MIN { Replica::Leader } else { Replica::Any };
        let read = self.broker.read(item.name, len, replica, &mut file).await;
        read.map_err(|error| LoadError::Failed(error.to_string()))?;
        let (id, read) = (item.name.id, file.len());
        let is_short = read < bytes;
        if is_short && (replica == Replica::Any || item.deliveries < DELIVERIES_MIN) {
            return Err(LoadError::Failed(format!("the broker has only {read} of {bytes} bytes of the segment")));
        }
        let salvage = salvage(id, &file);
        if salvage.is_suspect() && replica == Replica::Any {
            return Err(LoadError::Failed("one server of the broker has the segment with damage".to_owned()));
        }
        if is_short {
            tracing::error!(segment = %id, bytes, read, "the broker has lost a part of a segment; the jobs that it still has are stored");
        }
        Ok((file, salvage, permit))
    }
}

impl RemoteSegment {
    pub(super) fn len(&self) -> usize {
        self.data_len
    }

    /// Charges the growth of the last commit to the tenants of its jobs, in proportion to the bytes of their lines.
    pub(super) fn charge_tenants<'a>(&mut self, jobs: impl Iterator<Item = (Option<&'a SpoolShare>, usize)> + Clone) {
        self.charge.charge_tenants(jobs);
    }

    /// No commit follows.
    pub(super) fn seal(&mut self) {
        self.charge.seal();
    }

    pub(super) async fn commit(
        &mut self,
        counts: FrameCounts,
        pack: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<(), SpoolError> {
        let mut frame = Vec::new();
        let data_len = append_frame(&mut frame, self.id, self.appender.len() == 0, counts, pack)?;
        let (jobs, payloads) =
            (counts.first_job.saturating_add(counts.jobs), counts.first_payload.saturating_add(counts.payloads));
        self.appender.append(frame, jobs, payloads).await.map_err(|error| match error {
            AppendError::Superseded => SpoolError::Superseded,
            AppendError::Full => SpoolError::Full,
            AppendError::Failed(error) => SpoolError::Broker(error),
            AppendError::Unknown(error) => SpoolError::Unknown(error),
        })?;
        self.data_len += data_len;
        self.charge.grow_to(self.appender.len());
        Ok(())
    }
}

impl Spool {
    /// A spool in the broker. What `self` holds on disk is still uploaded. Returns the segments that are ended from now on.
    pub(crate) fn with_broker(mut self, broker: Arc<Broker>, expected_bytes: usize) -> (Self, EndedSegments) {
        let (remote, ended) = RemoteSpool::new(broker, expected_bytes);
        self.remote = Some(remote);
        (self, ended)
    }

    /// The broker, if segments are kept there.
    pub fn broker(&self) -> Option<&Arc<Broker>> {
        self.remote.as_ref().map(|remote| &remote.broker)
    }

    /// A segment from the work queue, to be uploaded.
    pub(crate) fn take_work(&self, item: Arc<WorkItem>) -> SealedSegment {
        let SegmentName { id, compression, .. } = item.name;
        let Committed { jobs, payloads, bytes } = item.committed;
        let own = self.remote.as_ref().and_then(|remote| {
            let mut segments = remote.ended.lock();
            let ended = segments.get_mut(&id)?;
            Some((Arc::clone(&ended.status), Some(ended.opened), std::mem::take(&mut ended.trace)))
        });
        let (status, opened, trace) =
            own.unwrap_or_else(|| (self.segments.add(id, compression, jobs), None, SegmentTrace::default()));
        let attempts = if item.is_repeated { Attempts::of_exited_process() } else { Attempts::default() };
        SealedSegment {
            status,
            len: bytes,
            age: opened.map(|opened| opened.elapsed()),
            opened,
            committed: Some((jobs, payloads)),
            attempts,
            trace,
            source: Source::Broker(item),
        }
    }

    /// Gives a segment of the work queue back to the broker. Returns the segment if it is not from there.
    pub(crate) async fn give_back(&self, segment: SealedSegment, delay: Duration) -> Option<SealedSegment> {
        let Source::Broker(item) = &segment.source else { return Some(segment) };
        let has_failed = segment.attempts.failures > 1;
        item.give_back(if has_failed { delay.max(REDELIVERY_DELAY) } else { delay }).await;
        let is_own = self.remote.as_ref().is_some_and(|remote| remote.ended.lock().contains_key(&item.name.id));
        if !is_own {
            self.segments.forget(item.name.id);
        }
        None
    }

    /// A segment of this process has left the broker. Returns what was known of it, if anything was.
    pub(crate) fn settle(&self, id: SegmentId, state: SegmentState) -> Option<SettledSegment> {
        let ended = self.remote.as_ref()?.ended.lock().remove(&id)?;
        let state = match (state, ended.lost) {
            (SegmentState::Stored { dead }, Some(lost)) => {
                SegmentState::Stored { dead: dead.iter().cloned().chain([lost]).collect() }
            }
            (state, _) => state,
        };
        self.segments.settle(&ended.status, state);
        Some(SettledSegment { committed: ended.committed, opened: ended.opened })
    }

    /// Corrects what was committed to an ended segment of this process to what the broker has. Returns what was counted before.
    pub(crate) fn correct(&self, id: SegmentId, committed: Committed) -> Option<Committed> {
        let mut segments = self.remote.as_ref()?.ended.lock();
        let ended = segments.get_mut(&id)?;
        let before = std::mem::replace(&mut ended.committed, committed);
        if committed.jobs < before.jobs {
            ended.status.set_possibly_lost(committed.jobs..before.jobs);
            ended.lost = Some(committed.jobs..before.jobs);
        } else {
            ended.status.set_jobs(committed.jobs);
        }
        Some(before)
    }

    /// An ended segment is in the work queue, or needs no upload.
    pub(crate) fn queued(&self, id: SegmentId) {
        if let Some(remote) = &self.remote {
            if let Some(ended) = remote.ended.lock().get_mut(&id) {
                ended.is_queued = true;
            }
            remote.unqueued.send_modify(|count| *count = count.saturating_sub(1));
        }
    }

    /// Waits until all ended segments are in the work queue.
    pub(crate) async fn all_queued(&self) {
        if let Some(remote) = &self.remote {
            // The sender is in `self`.
            let _: Result<_, _> = remote.unqueued.subscribe().wait_for(|count| *count == 0).await;
        }
    }

    /// A segment that nothing was committed to is no segment of this process any more.
    pub(crate) fn forget(&self, id: SegmentId) {
        if let Some(remote) = &self.remote {
            remote.ended.lock().remove(&id);
        }
        self.segments.forget(id);
    }

    /// Whether this process appends to the segment, or has ended it and will add it to the work queue.
    pub(crate) fn owns(&self, id: SegmentId) -> bool {
        let is_queued = self.remote.as_ref().and_then(|remote| Some(remote.ended.lock().get(&id)?.is_queued));
        let is_spooled = |segment: Arc<SegmentStatus>| segment.state() == SegmentState::Spooled;
        !is_queued.unwrap_or(false) && self.segments.find(id).is_some_and(is_spooled)
    }

    /// At most `max` segments that this process has ended at least `age` ago and that are not settled: the oldest ones after
    /// `after`, then the oldest ones.
    pub(crate) fn unsettled(&self, age: Duration, after: Option<SegmentId>, max: usize) -> Vec<SegmentName> {
        let Some(remote) = &self.remote else { return Vec::new() };
        let segments = remote.ended.lock();
        let old = segments.iter().filter(|(_, ended)| ended.opened.elapsed() >= age);
        let mut names: Vec<_> = old
            .map(|(id, ended)| SegmentName {
                id: *id,
                compression: ended.status.compression(),
                committed: Some(ended.committed),
            })
            .collect();
        names.sort_unstable_by_key(|name| (after.is_some_and(|after| name.id <= after), name.id));
        names.truncate(max);
        names
    }

    /// Records whether neither the broker nor the store has an ended segment of this process. Returns for how long that has been so.
    pub(crate) fn looked_up(&self, id: SegmentId, is_missing: bool) -> Duration {
        let Some(remote) = &self.remote else { return Duration::ZERO };
        let mut segments = remote.ended.lock();
        let Some(ended) = segments.get_mut(&id) else { return Duration::ZERO };
        ended.missing_since = is_missing.then(|| ended.missing_since.unwrap_or_else(Instant::now));
        ended.missing_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Passes an ended segment to the work queue, or forgets it if it holds no jobs.
    pub(super) fn end(&self, ended: EndedRemote) {
        let id = ended.status.id();
        if !self.remote.as_ref().is_some_and(|remote| remote.end(ended)) {
            self.segments.forget(id);
        }
    }

    /// The valid part of a segment of the work queue is stored.
    pub(super) async fn settle_work(&self, item: &WorkItem, is_damaged: bool) -> io::Result<()> {
        let Some(remote) = &self.remote else { return Ok(()) };
        remote.ended.lock().remove(&item.name.id);
        remote.broker.settled(item, is_damaged).await.map_err(io::Error::other)
    }

    /// Tells the process that took the jobs of a segment of the work queue that they are stored. Returns whether it counts
    /// them: not if it has exited.
    pub(crate) async fn tell_owner(&self, segment: &SealedSegment, salvage: &Salvage) -> bool {
        let (Some(remote), Source::Broker(item)) = (&self.remote, &segment.source) else { return false };
        let settled = Settled {
            segment: item.name.id.to_string(),
            jobs: salvage.jobs,
            payloads: salvage.payloads,
            dead: salvage.lost_indexes().into_iter().map(|range| (range.start, range.end)).collect(),
        };
        remote.broker.tell_owner(item, settled).await
    }

    /// Reads a segment of the work queue.
    pub(super) async fn load_remote(
        &self,
        item: &WorkItem,
        failures: u32,
    ) -> Result<(Frames, Option<BufferPermit>), LoadError> {
        let Some(remote) = &self.remote else {
            return Err(LoadError::Failed("BROKER_URL is not set".to_owned()));
        };
        let (file, salvage, permit) = remote.read(item, failures).await?;
        Ok((compact(file, salvage), permit))
    }
}
