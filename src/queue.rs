//! The bounded queue between the handlers and the dispatcher.
//!
//! It is bounded in jobs and in bytes, and full is a value: nobody waits for room. The bytes of a request count from the
//! moment they are read, so bodies in flight and jobs waiting share one bound. A job's capacity is given back when the
//! dispatcher has packed the job, not when it has merely taken it out.

mod capacity;
mod drain_rate;
mod gathering;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;

use crate::decode::Lines;
use crate::metrics::Ledger;
use crate::spool::{SegmentStatus, SpoolError, SpoolShare};
use capacity::Room;
pub use capacity::{Full, Reservation, Share, ShareLimits};
use drain_rate::DrainRate;
use gathering::Gathering;

/// One request: its lines, the capacity it holds until it is packed, and who waits for the outcome.
#[derive(Debug)]
pub struct Job {
    /// What is stored.
    pub lines: Lines,
    /// Whether somebody waits until it is stored, so that its segment should not wait for company.
    pub is_urgent: bool,
    /// Whether the job was accepted when it was queued.
    is_accepted: bool,
    /// None, unless a handler waits for the outcome of the commit.
    waiting: Option<oneshot::Sender<Result<Receipt, SpoolError>>>,
    /// Held until the lines are packed.
    held: Reservation,
}

/// Where a job is: the answer to a committed one.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Its segment.
    pub segment: Arc<SegmentStatus>,
    /// Its index among the segment's jobs, from 0.
    pub index: u32,
}

impl Job {
    /// Whether the job counts as accepted only with its commit.
    pub fn is_accepted_by_commit(&self) -> bool {
        !self.is_accepted
    }

    /// What its sender may hold of the spool; none if that is all of it.
    pub fn spool_share(&self) -> Option<&SpoolShare> {
        self.held.spool()
    }

    /// The job is in a segment: gives its capacity back, and says so to the one who waits. One who has gone away does not
    /// matter.
    pub fn acknowledge(self, receipt: impl FnOnce() -> Receipt) {
        drop(self.held);
        if let Some(waiting) = self.waiting {
            let _: Result<_, _> = waiting.send(Ok(receipt()));
        }
    }

    /// The job is in no segment, and is not accepted.
    pub fn refuse(self, error: SpoolError) {
        drop(self.held);
        if let Some(waiting) = self.waiting {
            let _: Result<_, _> = waiting.send(Err(error));
        }
    }
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// `MAX_QUEUE` or `MAX_QUEUE_BYTES` is reached, or the sender's share of them.
    #[error(transparent)]
    Full(#[from] Full),
    /// The server is stopping.
    #[error("the queue is closed")]
    Closed,
}

/// The handlers' end.
#[derive(Debug, Clone)]
pub struct JobQueue {
    room: Arc<Room>,
    drain_rate: Arc<DrainRate>,
    gathering: Arc<Gathering>,
    ledger: Arc<Ledger>,
    sender: mpsc::Sender<Job>,
}

/// The dispatcher's end.
#[derive(Debug)]
pub struct JobReceiver {
    drain_rate: Arc<DrainRate>,
    depth: QueueDepth,
    gathering: Arc<Gathering>,
    receiver: mpsc::Receiver<Job>,
}

/// A queue of at most `max_jobs` jobs and `max_bytes` bytes, which enters what it takes in `ledger`.
pub fn queue(max_jobs: usize, max_bytes: usize, ledger: Arc<Ledger>) -> (JobQueue, JobReceiver) {
    let (sender, receiver) = mpsc::channel(max_jobs);
    let room = Arc::new(Room::new(max_jobs, max_bytes));
    let drain_rate = Arc::new(DrainRate::new(Instant::now()));
    let gathering = Arc::new(Gathering::default());
    let (rate, crowd) = (Arc::clone(&drain_rate), Arc::clone(&gathering));
    let queue = JobQueue { room, drain_rate, gathering, ledger, sender };
    let depth = queue.depth();
    (queue, JobReceiver { drain_rate: rate, depth, gathering: crowd, receiver })
}

impl JobQueue {
    /// Whether a job would be refused now, whatever its size: for refusing it before its body is read.
    pub fn is_full(&self) -> bool {
        self.room.is_full()
    }

    /// A hold on the queue's bytes, empty as yet, for a request whose body is about to be read; it counts against `share`,
    /// if its sender has one.
    pub fn reserve(&self, share: Option<&Share>) -> Reservation {
        Reservation::empty(Arc::clone(&self.room), share.cloned())
    }

    /// What shares of so many percent of the queue are cut from.
    pub fn share_limits(&self, percent: usize) -> ShareLimits {
        ShareLimits::new(percent, self.room.jobs.most(), self.room.bytes.most())
    }

    /// Takes a job that is accepted with that, or refuses it, at once.
    ///
    /// # Errors
    /// [`PushError`]; the lines and their reservation are dropped then, so that nothing is left behind.
    pub fn try_push(&self, lines: Lines, reservation: Reservation) -> Result<(), PushError> {
        self.push(lines, reservation, None, true, false)
    }

    /// Takes a job that is accepted when it is committed, or refuses it, at once. What is returned tells of the commit;
    /// `is_urgent` has the job's segment sealed soon.
    ///
    /// # Errors
    /// [`PushError`], as [`try_push`](Self::try_push).
    pub fn try_push_for_commit(
        &self,
        lines: Lines,
        reservation: Reservation,
        is_urgent: bool,
    ) -> Result<oneshot::Receiver<Result<Receipt, SpoolError>>, PushError> {
        let (waiting, committed) = oneshot::channel();
        self.push(lines, reservation, Some(waiting), false, is_urgent).map(|()| committed)
    }

    /// Takes a job that is accepted with that, or refuses it, at once. What is returned tells of the commit all the same;
    /// the job's segment is sealed soon.
    ///
    /// # Errors
    /// [`PushError`], as [`try_push`](Self::try_push).
    pub fn try_push_and_watch(
        &self,
        lines: Lines,
        reservation: Reservation,
    ) -> Result<oneshot::Receiver<Result<Receipt, SpoolError>>, PushError> {
        let (waiting, committed) = oneshot::channel();
        self.push(lines, reservation, Some(waiting), true, true).map(|()| committed)
    }

    fn push(
        &self,
        lines: Lines,
        mut reservation: Reservation,
        waiting: Option<oneshot::Sender<Result<Receipt, SpoolError>>>,
        is_accepted: bool,
        is_urgent: bool,
    ) -> Result<(), PushError> {
        let length = lines.bytes.len();
        reservation.grow_to(length)?;
        reservation.shrink_to(length);
        reservation.add_job()?;
        let place = self.sender.try_reserve().map_err(|error| match error {
            TrySendError::Full(()) => PushError::Full(Full::Queue),
            TrySendError::Closed(()) => PushError::Closed,
        })?;
        if is_accepted {
            // Entered before it is sent, so that no job is ever stored before it was accepted.
            self.ledger.accepted(1, u64::from(lines.payloads));
        }
        place.send(Job { lines, is_urgent, is_accepted, waiting, held: reservation });
        self.gathering.joined(|| self.room.jobs.used());
        Ok(())
    }

    /// More bytes than this are never taken.
    pub fn max_bytes(&self) -> usize {
        self.room.bytes.most()
    }

    /// For looking at the queue without keeping it open.
    pub fn depth(&self) -> QueueDepth {
        QueueDepth(Arc::clone(&self.room))
    }

    /// In how many seconds a sender that was refused may find room, at the rate at which jobs left of late, with jitter
    /// so that those who were refused together do not come back together.
    pub fn retry_after(&self) -> u64 {
        self.drain_rate.retry_after(self.room.jobs.used(), Instant::now(), fastrand::f64())
    }
}

/// How full the queue is.
#[derive(Debug, Clone)]
pub struct QueueDepth(Arc<Room>);

impl QueueDepth {
    /// Whether a job would be refused now, whatever its size.
    pub fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// How many jobs wait, and how many bytes wait or are being read.
    pub fn now(&self) -> (usize, usize) {
        (self.0.jobs.used(), self.0.bytes.used())
    }
}

impl JobReceiver {
    /// Moves up to `most` jobs into `jobs`, waiting for the first; 0 when the queue is closed and empty.
    pub async fn recv_many(&mut self, jobs: &mut Vec<Job>, most: usize) -> usize {
        self.receiver.recv_many(jobs, most).await
    }

    /// Blocks until `crowd` jobs wait, or `most` has passed; says whether they do.
    pub fn gather(&self, crowd: usize, most: Duration) -> bool {
        self.gathering.slice(crowd, most, || self.waiting().0)
    }

    /// How many jobs wait, and how many bytes wait or are being read.
    pub fn waiting(&self) -> (usize, usize) {
        self.depth.now()
    }

    /// How many jobs the queue holds at most.
    pub fn max_jobs(&self) -> usize {
        self.receiver.max_capacity()
    }

    /// Tells the queue that `jobs` jobs were packed.
    pub fn record_drained(&self, jobs: usize) {
        self.drain_rate.record(jobs, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(length: usize) -> Lines {
        Lines { bytes: vec![b'x'; length], payloads: 1 }
    }

    fn push(queue: &JobQueue, length: usize) -> Result<(), PushError> {
        queue.try_push(lines(length), queue.reserve(None))
    }

    #[tokio::test]
    async fn a_queue_full_of_jobs_refuses_and_leaves_nothing_behind() {
        let (queue, mut receiver) = queue(2, 1000, Arc::default());
        assert_eq!([push(&queue, 1), push(&queue, 1)], [Ok(()), Ok(())]);
        assert!(queue.is_full());
        assert_eq!(push(&queue, 1), Err(PushError::Full(Full::Queue)));
        assert_eq!(queue.depth().now(), (2, 2));
        let mut jobs = Vec::new();
        assert_eq!(receiver.recv_many(&mut jobs, 10).await, 2);
        assert_eq!(push(&queue, 1), Err(PushError::Full(Full::Queue)), "taken out is not packed");
        jobs.into_iter().for_each(|job| job.refuse(SpoolError::Full));
        assert_eq!(push(&queue, 1), Ok(()));
        assert_eq!(queue.depth().now(), (1, 1));
    }

    #[test]
    fn a_consumer_at_rest_is_woken_by_the_one_who_completes_the_crowd() {
        let (queue, receiver) = queue(100, 1000, Arc::default());
        // Far longer than a push takes: what ends the rest in time is the crowd.
        let most = Duration::from_secs(60);
        let began = Instant::now();
        let is_there = std::thread::scope(|scope| {
            let rest = scope.spawn(|| receiver.gather(50, most));
            for _ in 0..50 {
                assert_eq!(push(&queue, 1), Ok(()));
                // So that the consumer is asleep for most of them.
                std::thread::yield_now();
            }
            rest.join().unwrap()
        });
        assert!(is_there);
        assert!(began.elapsed() < most, "it slept on");
        assert!(!receiver.gather(51, Duration::ZERO));
    }

    #[test]
    fn a_queue_full_of_bytes_refuses_and_leaves_nothing_behind() {
        let (queue, _receiver) = queue(100, 10, Arc::default());
        assert_eq!(push(&queue, 6), Ok(()));
        assert_eq!(push(&queue, 5), Err(PushError::Full(Full::Queue)));
        assert!(!queue.is_full(), "a smaller one has room");
        assert_eq!(push(&queue, 4), Ok(()));
        assert!(queue.is_full());
        assert_eq!(queue.depth().now(), (2, 10));
    }

    #[test]
    fn a_body_in_flight_counts_and_what_it_held_too_much_is_given_back() {
        let (queue, _receiver) = queue(100, 10, Arc::default());
        let mut reservation = queue.reserve(None);
        assert_eq!(reservation.grow_to(8), Ok(()));
        assert_eq!(push(&queue, 3), Err(PushError::Full(Full::Queue)));
        assert_eq!(reservation.grow_to(11), Err(Full::Queue));
        assert_eq!(queue.try_push(lines(2), reservation), Ok(()));
        assert_eq!(queue.depth().now(), (1, 2));
        drop(queue.reserve(None));
        assert_eq!(queue.depth().now(), (1, 2));
    }

    #[test]
    fn a_full_share_refuses_its_own_sender_and_nobody_else() {
        let (queue, _receiver) = queue(4, 10, Arc::default());
        let shares = queue.share_limits(50);
        let (one, other) = (shares.new_share(), shares.new_share());
        let push = |length, share: &Option<Share>| queue.try_push(lines(length), queue.reserve(share.as_ref()));
        assert_eq!([push(1, &one), push(1, &one)], [Ok(()), Ok(())]);
        assert!(one.as_ref().unwrap().is_full() && !queue.is_full());
        assert_eq!(push(1, &one), Err(PushError::Full(Full::Share)), "over its jobs");
        assert_eq!(push(6, &other), Err(PushError::Full(Full::Share)), "over its bytes");
        assert_eq!(queue.depth().now(), (2, 2), "nothing is left behind");
        assert_eq!([push(1, &other), push(1, &other)], [Ok(()), Ok(())]);
        assert_eq!(push(1, &None), Err(PushError::Full(Full::Queue)));
        assert!(queue.share_limits(100).new_share().is_none(), "all of it is no share");
        assert_eq!(
            queue.share_limits(1).new_share().unwrap().room.jobs.most(),
            1,
            "a share of a small queue is not nothing"
        );
    }

    #[test]
    fn a_share_of_the_spool_can_be_limited_where_the_queue_is_not() {
        let (queue, _receiver) = queue(4, 10, Arc::default());
        let shares = queue.share_limits(100);
        assert!(shares.with_spool(100, 1000).new_share().is_none());
        let share = shares.with_spool(50, 1000).new_share().unwrap();
        assert_eq!((share.full(), share.room.jobs.most(), share.room.bytes.most()), (None, 4, 10));
        assert!(
            queue.share_limits(50).new_share().unwrap().spool().is_none(),
            "unless it is limited, too, it is all of it"
        );
    }

    #[test]
    fn what_is_held_moves_to_the_share_of_whom_it_turns_out_to_be() {
        let (queue, _receiver) = queue(100, 10, Arc::default());
        let shares = queue.share_limits(50);
        let (unnamed, named) = (shares.new_share(), shares.new_share());
        let mut first = queue.reserve(unnamed.as_ref());
        assert_eq!([first.grow_to(5), first.grow_to(6)], [Ok(()), Err(Full::Share)]);
        assert_eq!(queue.reserve(unnamed.as_ref()).grow_to(1), Err(Full::Share));
        assert_eq!(first.move_to(named.as_ref()), Ok(()));
        let mut second = queue.reserve(unnamed.as_ref());
        assert_eq!(second.grow_to(5), Ok(()), "what was moved is given back");
        assert_eq!(second.move_to(named.as_ref()), Err(Full::Share));
        drop((first, second));
        assert_eq!(queue.depth().now(), (0, 0));
        assert!([unnamed, named].into_iter().all(|share| share.unwrap().room.bytes.used() == 0));
    }

    #[test]
    fn a_closed_queue_refuses_and_gives_the_capacity_back() {
        let (queue, receiver) = queue(2, 10, Arc::default());
        drop(receiver);
        assert_eq!(push(&queue, 1), Err(PushError::Closed));
        assert_eq!(queue.depth().now(), (0, 0));
    }
}
