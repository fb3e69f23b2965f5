//! The bounded queue between the request handlers and the dispatcher.
//!
//! It is bounded in jobs and in bytes, and a push never waits: a full queue is an error. The bytes of a request count from
//! the moment they are read, so bodies in flight and queued jobs share one bound. The capacity of a job is released when the
//! dispatcher has committed the job, not when it has received it.

mod capacity;
mod drain_rate;
mod linger_wait;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;

use crate::decode::Lines;
use crate::metrics::Ledger;
use crate::spool::{SegmentStatus, SpoolError, SpoolShare};
use crate::trace::JobTrace;
use capacity::Capacity;
pub use capacity::{Full, Reservation, Share, ShareLimits};
use drain_rate::DrainRate;
pub(crate) use drain_rate::retry_after;
use linger_wait::LingerWait;

/// The outcome of the commit of a job.
type Outcome = Result<Receipt, SpoolError>;

/// One accepted batch.
#[derive(Debug)]
pub struct Job {
    /// What is stored.
    pub lines: Lines,
    /// Whether a client waits until the job is stored, so that its segment is sealed soon.
    pub is_urgent: bool,
    /// When the job was queued.
    pub queued_at: Instant,
    /// Whether the job was accepted when it was queued.
    is_accepted: bool,
    /// Set if a handler waits for the outcome of the commit.
    waiting: Option<oneshot::Sender<Outcome>>,
    /// Released when the job is committed or rejected.
    reservation: Reservation,
}

/// Names a committed job.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Its segment.
    pub segment: Arc<SegmentStatus>,
    /// Its index among the segment's jobs, from 0.
    pub index: u32,
}

/// The receipt of a committed job, for the handler that waits for it.
#[derive(Debug)]
pub struct Acknowledgement {
    waiting: oneshot::Sender<Outcome>,
    receipt: Receipt,
}

impl Acknowledgement {
    /// Informs the handler, if it still waits.
    pub fn send(self) {
        let _: Result<_, _> = self.waiting.send(Ok(self.receipt));
    }
}

impl Job {
    /// Whether the job is accepted only by its commit.
    pub fn is_accepted_by_commit(&self) -> bool {
        !self.is_accepted
    }

    /// The tenant's share of the spool; none if it may use the whole spool.
    pub fn spool_share(&self) -> Option<&SpoolShare> {
        self.reservation.spool()
    }

    /// Its trace, if its request is sampled.
    pub(crate) fn trace(&self) -> Option<&JobTrace> {
        self.reservation.trace.as_deref()
    }

    /// The job is committed: releases its capacity. Returns its acknowledgement, if a handler waits for it.
    pub fn committed(self, receipt: impl FnOnce() -> Receipt) -> Option<Acknowledgement> {
        self.waiting.map(|waiting| Acknowledgement { waiting, receipt: receipt() })
    }

    /// The commit failed: releases the job's capacity and informs the handler, if it still waits.
    pub fn reject(self, error: SpoolError) {
        drop(self.reservation);
        if let Some(waiting) = self.waiting {
            let _: Result<_, _> = waiting.send(Err(error));
        }
    }
}

/// Why a job was not queued. Its lines and its reservation are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// `MAX_QUEUE`, `MAX_QUEUE_BYTES` or a share of the tenant is reached.
    #[error(transparent)]
    Full(#[from] Full),
    /// The server is stopping.
    #[error("the queue is closed")]
    Closed,
}

/// The sending half, for the handlers.
#[derive(Debug, Clone)]
pub struct JobQueue {
    capacity: Arc<Capacity>,
    drain_rate: Arc<DrainRate>,
    linger: Arc<LingerWait>,
    ledger: Arc<Ledger>,
    sender: mpsc::Sender<Job>,
}

/// The receiving half, for the dispatcher.
#[derive(Debug)]
pub struct JobReceiver {
    /// How full the queue is.
    pub depth: QueueDepth,
    drain_rate: Arc<DrainRate>,
    linger: Arc<LingerWait>,
    receiver: mpsc::Receiver<Job>,
}

/// A queue of at most `max_jobs` jobs and `max_bytes` bytes, which records accepted jobs in `ledger`.
pub fn queue(max_jobs: usize, max_bytes: usize, ledger: Arc<Ledger>) -> (JobQueue, JobReceiver) {
    let (sender, receiver) = mpsc::channel(max_jobs);
    let queue = JobQueue {
        capacity: Arc::new(Capacity::new(max_jobs, max_bytes)),
        drain_rate: Arc::new(DrainRate::new(Instant::now())),
        linger: Arc::default(),
        ledger,
        sender,
    };
    let (drain_rate, linger) = (Arc::clone(&queue.drain_rate), Arc::clone(&queue.linger));
    let depth = queue.depth();
    (queue, JobReceiver { drain_rate, depth, linger, receiver })
}

impl JobQueue {
    /// Whether a job of any size would be rejected now. A handler checks this before it reads the body.
    pub fn is_full(&self) -> bool {
        self.capacity.is_full()
    }

    /// An empty reservation for a request whose body is about to be read. It counts against `share`, if there is one.
    pub fn reserve(&self, share: Option<&Share>) -> Reservation {
        Reservation::empty(Arc::clone(&self.capacity), share.cloned())
    }

    /// The limits of shares of `percent` of the queue.
    pub fn share_limits(&self, percent: usize) -> ShareLimits {
        ShareLimits::new(percent, self.capacity.jobs.max(), self.capacity.bytes.max())
    }

    /// Queues a job and accepts it.
    pub fn try_push(&self, lines: Lines, reservation: Reservation) -> Result<(), PushError> {
        self.push(lines, reservation, None, true, false)
    }

    /// Queues a job that is accepted when it is committed. The receiver gets the outcome of the commit. If `is_urgent`, the
    /// segment of the job is sealed soon.
    pub fn try_push_for_commit(
        &self,
        lines: Lines,
        reservation: Reservation,
        is_urgent: bool,
    ) -> Result<oneshot::Receiver<Outcome>, PushError> {
        let (waiting, outcome) = oneshot::channel();
        self.push(lines, reservation, Some(waiting), false, is_urgent).map(|()| outcome)
    }

    /// Queues an urgent job and accepts it. The receiver gets the outcome of the commit.
    pub fn try_push_and_watch(
        &self,
        lines: Lines,
        reservation: Reservation,
    ) -> Result<oneshot::Receiver<Outcome>, PushError> {
        let (waiting, outcome) = oneshot::channel();
        self.push(lines, reservation, Some(waiting), true, true).map(|()| outcome)
    }

    fn push(
        &self,
        lines: Lines,
        mut reservation: Reservation,
        waiting: Option<oneshot::Sender<Outcome>>,
        is_accepted: bool,
        is_urgent: bool,
    ) -> Result<(), PushError> {
        let length = lines.bytes.len();
        reservation.grow_to(length)?;
        reservation.shrink_to(length);
        reservation.add_job()?;
        let permit = self.sender.try_reserve().map_err(|error| match error {
            TrySendError::Full(()) => PushError::Full(Full::Queue),
            TrySendError::Closed(()) => PushError::Closed,
        })?;
        if is_accepted {
            // Before it is sent, so that no job is stored before it is accepted.
            self.ledger.accepted(1, u64::from(lines.payloads));
        }
        permit.send(Job { lines, is_urgent, queued_at: Instant::now(), is_accepted, waiting, reservation });
        self.linger.pushed(|| self.capacity.jobs.used());
        Ok(())
    }

    /// The capacity of the queue in bytes.
    pub fn max_bytes(&self) -> usize {
        self.capacity.bytes.max()
    }

    /// A view of how full the queue is, which does not keep the queue open.
    pub fn depth(&self) -> QueueDepth {
        QueueDepth(Arc::clone(&self.capacity))
    }

    /// The `Retry-After` of a rejected request, in seconds: the time until the queue has drained at its current rate, with
    /// jitter that spreads the retries of clients that were rejected together.
    pub fn retry_after(&self) -> u64 {
        self.drain_rate.retry_after(self.capacity.jobs.used(), Instant::now(), fastrand::f64())
    }
}

/// How full the queue is.
#[derive(Debug, Clone)]
pub struct QueueDepth(Arc<Capacity>);

impl QueueDepth {
    /// Whether a job of any size would be rejected now.
    pub fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// The queued jobs, and the bytes of the queue in use.
    pub fn now(&self) -> (usize, usize) {
        (self.0.jobs.used(), self.0.bytes.used())
    }
}

impl JobReceiver {
    /// Waits for a job and moves up to `max` jobs into `jobs`. Returns how many; 0 when the queue is closed and empty.
    pub async fn recv_many(&mut self, jobs: &mut Vec<Job>, max: usize) -> usize {
        self.receiver.recv_many(jobs, max).await
    }

    /// Moves queued jobs into `jobs`, without waiting, until it has `max`.
    pub fn try_recv_many(&mut self, jobs: &mut Vec<Job>, max: usize) {
        let more = max.saturating_sub(jobs.len());
        jobs.extend(std::iter::from_fn(|| self.receiver.try_recv().ok()).take(more));
    }

    /// Blocks until `batch_target` jobs are queued or `timeout` has passed. Returns whether the target was reached.
    pub fn linger(&self, batch_target: usize, timeout: Duration) -> bool {
        self.linger.wait(batch_target, timeout, || self.depth.now().0)
    }

    /// The capacity of the queue in jobs.
    pub fn max_jobs(&self) -> usize {
        self.receiver.max_capacity()
    }

    /// Records that `jobs` jobs were packed, for [`JobQueue::retry_after`].
    pub fn record_drained(&self, jobs: usize) {
        self.drain_rate.record(jobs, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::segment::Compression;
    use crate::spool::{Spool, SpoolLimit};

    fn lines(length: usize) -> Lines {
        Lines { bytes: vec![b'x'; length], payloads: 1 }
    }

    fn push(queue: &JobQueue, length: usize) -> Result<(), PushError> {
        queue.try_push(lines(length), queue.reserve(None))
    }

    #[tokio::test]
    async fn a_queue_full_of_jobs_rejects_a_job_and_leaves_nothing_behind() {
        let (queue, mut receiver) = queue(2, 1000, Arc::default());
        assert_eq!([push(&queue, 1), push(&queue, 1)], [Ok(()), Ok(())]);
        assert!(queue.is_full());
        assert_eq!(push(&queue, 1), Err(PushError::Full(Full::Queue)));
        assert_eq!(queue.depth().now(), (2, 2));
        let mut jobs = Vec::new();
        assert_eq!(receiver.recv_many(&mut jobs, 10).await, 2);
        assert_eq!(push(&queue, 1), Err(PushError::Full(Full::Queue)), "received is not packed");
        jobs.into_iter().for_each(|job| job.reject(SpoolError::Full));
        assert_eq!(push(&queue, 1), Ok(()));
        assert_eq!(queue.depth().now(), (1, 1));
    }

    #[test]
    fn the_push_that_reaches_the_batch_target_wakes_the_lingering_consumer() {
        let (queue, receiver) = queue(100, 1000, Arc::default());
        // Far longer than the pushes take: only the target ends the wait in time.
        let timeout = Duration::from_secs(60);
        let began = Instant::now();
        let is_reached = std::thread::scope(|scope| {
            let linger = scope.spawn(|| receiver.linger(50, timeout));
            for _ in 0..50 {
                assert_eq!(push(&queue, 1), Ok(()));
                // So that the consumer sleeps during most of them.
                std::thread::yield_now();
            }
            linger.join().unwrap()
        });
        assert!(is_reached);
        assert!(began.elapsed() < timeout, "the push did not wake it");
        assert!(!receiver.linger(51, Duration::ZERO));
    }

    #[test]
    fn a_queue_full_of_bytes_rejects_a_job_and_leaves_nothing_behind() {
        let (queue, _receiver) = queue(100, 10, Arc::default());
        assert_eq!(push(&queue, 6), Ok(()));
        assert_eq!(push(&queue, 5), Err(PushError::Full(Full::Queue)));
        assert!(!queue.is_full() && !queue.depth().is_full(), "a smaller job fits");
        assert_eq!(push(&queue, 4), Ok(()));
        assert!(queue.is_full() && queue.depth().is_full());
        assert_eq!(queue.depth().now(), (2, 10));
    }

    #[tokio::test]
    async fn a_job_is_accepted_when_it_is_queued_or_by_its_commit() {
        let ledger = Arc::new(Ledger::default());
        let (queue, mut receiver) = queue(100, 1000, Arc::clone(&ledger));
        let watched = queue.try_push_and_watch(lines(1), queue.reserve(None)).unwrap();
        assert_eq!(ledger.balance().accepted.jobs, 1);
        let rejected = queue.try_push_for_commit(lines(1), queue.reserve(None), false).unwrap();
        assert_eq!(ledger.balance().accepted.jobs, 1, "the dispatcher counts it when it is committed");
        push(&queue, 1).unwrap();
        let mut jobs = Vec::new();
        receiver.recv_many(&mut jobs, 10).await;
        assert_eq!([0, 1, 2].map(|index: usize| jobs[index].is_accepted_by_commit()), [false, true, false]);
        assert_eq!([0, 1, 2].map(|index: usize| jobs[index].is_urgent), [true, false, false]);
        let segment = Spool::in_memory(Compression::Gzip).open(SystemTime::now(), 1).unwrap().status;
        let receipt = || Receipt { segment: Arc::clone(&segment), index: 7 };
        assert!(jobs.pop().unwrap().committed(receipt).is_none(), "no handler waits");
        jobs.pop().unwrap().reject(SpoolError::Full);
        assert_eq!(rejected.await.unwrap().unwrap_err(), SpoolError::Full);
        jobs.pop().unwrap().committed(receipt).unwrap().send();
        assert_eq!(watched.await.unwrap().unwrap().index, 7);
        assert_eq!(queue.depth().now(), (0, 0));
    }

    #[test]
    fn a_rejected_client_retries_later_while_no_job_leaves_the_queue() {
        let (queue, receiver) = queue(100, 1000, Arc::default());
        push(&queue, 1).unwrap();
        assert!((30..=45).contains(&queue.retry_after()));
        receiver.record_drained(100);
        assert!((1..=2).contains(&queue.retry_after()));
    }

    #[test]
    fn a_body_in_flight_counts_and_unused_bytes_of_its_reservation_are_released() {
        let (queue, receiver) = queue(100, 10, Arc::default());
        assert_eq!((queue.max_bytes(), receiver.max_jobs()), (10, 100));
        let mut reservation = queue.reserve(None);
        assert_eq!(reservation.grow_to(8), Ok(()));
        assert_eq!(push(&queue, 3), Err(PushError::Full(Full::Queue)));
        assert_eq!(reservation.grow_to(11), Err(Full::Queue));
        assert_eq!(queue.try_push(lines(2), reservation), Ok(()));
        assert_eq!(queue.depth().now(), (1, 2));
        drop(queue.reserve(None));
        assert_eq!(queue.depth().now(), (1, 2));
        drop(receiver);
        assert_eq!(queue.depth().now(), (0, 0), "a job releases what is left of its reservation");
    }

    #[test]
    fn a_request_reserves_its_job_once() {
        let (queue, _receiver) = queue(100, 10, Arc::default());
        let mut reservation = queue.reserve(None);
        assert_eq!([reservation.add_job(), reservation.add_job()], [Ok(()), Ok(())]);
        assert_eq!(queue.depth().now(), (1, 0));
        assert_eq!(queue.try_push(lines(2), reservation), Ok(()));
        assert_eq!(queue.depth().now(), (1, 2));
    }

    #[test]
    fn a_full_share_rejects_jobs_of_its_own_tenant_only() {
        let (queue, _receiver) = queue(4, 10, Arc::default());
        let limits = queue.share_limits(50);
        assert_eq!(limits.max_bytes(), 5);
        let (one, other) = (limits.new_share(), limits.new_share());
        let push = |length, share: &Option<Share>| queue.try_push(lines(length), queue.reserve(share.as_ref()));
        assert_eq!([push(1, &one), push(1, &one)], [Ok(()), Ok(())]);
        let [one_share, other_share] = [&one, &other].map(|share| share.as_ref().unwrap());
        assert!(one_share.is_full() && !other_share.is_full() && !queue.is_full());
        assert_eq!([one_share.queued_bytes(), other_share.queued_bytes()], [2, 0]);
        assert_eq!(push(1, &one), Err(PushError::Full(Full::Share)), "its jobs");
        assert_eq!(push(6, &other), Err(PushError::Full(Full::Share)), "its bytes");
        assert_eq!(queue.depth().now(), (2, 2), "nothing is left behind");
        assert_eq!([push(1, &other), push(1, &other)], [Ok(()), Ok(())]);
        assert_eq!(push(1, &None), Err(PushError::Full(Full::Queue)));
        assert!(queue.share_limits(100).new_share().is_none(), "a share of everything is no share");
        assert_eq!(queue.share_limits(1).new_share().unwrap().capacity.jobs.max(), 1, "a share holds at least one job");
    }

    #[tokio::test]
    async fn a_share_of_the_spool_can_be_limited_where_the_queue_is_not() {
        let (queue, mut receiver) = queue(4, 10, Arc::default());
        let limits = queue.share_limits(100);
        assert!(limits.clone().with_spool(None).new_share().is_none());
        let share = limits.with_spool(Some(SpoolLimit::Bytes(500))).new_share().unwrap();
        assert_eq!((share.full(), share.capacity.jobs.max(), share.capacity.bytes.max()), (None, 4, 10));
        assert!(share.spool().is_some());
        queue.try_push(lines(1), queue.reserve(Some(&share))).unwrap();
        let mut jobs = Vec::new();
        receiver.recv_many(&mut jobs, 1).await;
        assert!(jobs[0].spool_share().is_some(), "its commit is charged to the share");
        for limits in [queue.share_limits(50), queue.share_limits(50).with_spool(None)] {
            assert!(limits.new_share().unwrap().spool().is_none(), "without a limit it is the whole spool");
        }
    }

    #[test]
    fn a_reservation_moves_to_the_share_of_the_tenant_once_it_is_known() {
        let (queue, _receiver) = queue(100, 10, Arc::default());
        let limits = queue.share_limits(50);
        let (anonymous, tenant) = (limits.new_share(), limits.new_share());
        let mut first = queue.reserve(anonymous.as_ref());
        assert_eq!([first.grow_to(5), first.grow_to(6)], [Ok(()), Err(Full::Share)]);
        assert_eq!(queue.reserve(anonymous.as_ref()).grow_to(1), Err(Full::Share));
        assert_eq!(first.move_to(tenant.as_ref()), Ok(()));
        let mut second = queue.reserve(anonymous.as_ref());
        assert_eq!(second.grow_to(5), Ok(()), "what was moved is released");
        assert_eq!(second.move_to(tenant.as_ref()), Err(Full::Share));
        drop((first, second));
        assert_eq!(queue.depth().now(), (0, 0));
        assert!([anonymous, tenant].into_iter().all(|share| share.unwrap().capacity.bytes.used() == 0));
    }

    #[test]
    fn a_closed_queue_rejects_a_job_and_releases_its_capacity() {
        let (queue, receiver) = queue(2, 10, Arc::default());
        drop(receiver);
        assert_eq!(push(&queue, 1), Err(PushError::Closed));
        assert_eq!(queue.depth().now(), (0, 0));
    }
}
