//! Counted bounds, and holds on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::spool::SpoolShare;

/// So many units and no more, of which some are held.
#[derive(Debug)]
pub(super) struct Capacity {
    most: usize,
    used: AtomicUsize,
}

impl Capacity {
    fn new(most: usize) -> Self {
        Self { most, used: AtomicUsize::new(0) }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.used() >= self.most
    }

    fn take(&self, units: usize) -> bool {
        if units == 0 {
            return true;
        }
        // The count guards no other memory, so relaxed is enough: what a job holds is passed on by the channel.
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(units).filter(|sum| *sum <= self.most)
        });
        taken.is_ok()
    }

    fn give_back(&self, units: usize) {
        if units > 0 {
            self.used.fetch_sub(units, Ordering::Relaxed);
        }
    }
}

/// The two capacities of the queue, or of one sender's share of it.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) jobs: Capacity,
    pub(super) bytes: Capacity,
}

impl Room {
    pub(super) fn new(max_jobs: usize, max_bytes: usize) -> Self {
        Self { jobs: Capacity::new(max_jobs), bytes: Capacity::new(max_bytes) }
    }

    pub(super) fn is_full(&self) -> bool {
        self.jobs.is_full() || self.bytes.is_full()
    }

    fn take(&self, jobs: usize, bytes: usize) -> bool {
        if !self.jobs.take(jobs) {
            return false;
        }
        let taken = self.bytes.take(bytes);
        if !taken {
            self.jobs.give_back(jobs);
        }
        taken
    }

    fn give_back(&self, jobs: usize, bytes: usize) {
        self.jobs.give_back(jobs);
        self.bytes.give_back(bytes);
    }
}

/// A part of the queue and of the spool that one sender may hold, and no more. Clones are the same share.
#[derive(Debug, Clone)]
pub struct Share {
    pub(super) room: Arc<Room>,
    /// None if it may hold all of the spool.
    spool: Option<SpoolShare>,
    lane: Arc<Semaphore>,
}

impl Share {
    /// Whether a job of this sender's would be refused now, whatever its size.
    pub fn is_full(&self) -> bool {
        self.full().is_some()
    }

    /// Why a job of this sender's would be refused now, whatever its size; none if it would be taken.
    pub fn full(&self) -> Option<Full> {
        if self.room.is_full() {
            return Some(Full::Share);
        }
        self.spool.as_ref().is_some_and(SpoolShare::is_full).then_some(Full::SpoolShare)
    }

    /// What this sender may hold of the spool; none if that is all of it.
    pub fn spool(&self) -> Option<&SpoolShare> {
        self.spool.as_ref()
    }

    /// The lane in which this sender's large bodies wait for their turn, so that those of others never wait behind them all.
    pub fn decode_permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.lane)
    }
}

/// What shares are cut from.
#[derive(Debug, Clone, Copy)]
pub struct ShareLimits {
    /// Whether everybody may hold all, so that there are no shares.
    is_all: bool,
    max_jobs: usize,
    max_bytes: usize,
    /// None if everybody may hold all of the spool.
    max_spool_bytes: Option<usize>,
}

impl ShareLimits {
    /// So many percent of a queue of this size, and a job and a byte at the least.
    pub(super) fn new(percent: usize, max_jobs: usize, max_bytes: usize) -> Self {
        let (max_jobs, max_bytes) = (part(max_jobs, percent), part(max_bytes, percent));
        Self { is_all: percent >= 100, max_jobs, max_bytes, max_spool_bytes: None }
    }

    /// The same with so many percent of a spool of this size.
    pub fn with_spool(self, percent: usize, max_bytes: usize) -> Self {
        let max_spool_bytes = (percent < 100).then(|| part(max_bytes, percent));
        Self { is_all: self.is_all && max_spool_bytes.is_none(), max_spool_bytes, ..self }
    }

    /// Another share, of which nothing is held.
    pub fn new_share(&self) -> Option<Share> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (!self.is_all).then(|| Share {
            room: Arc::new(Room::new(self.max_jobs, self.max_bytes)),
            spool: self.max_spool_bytes.map(SpoolShare::new),
            // As many as are decoded at once: a sender alone has all cores, and one of many a turn like theirs.
            lane: Arc::new(Semaphore::new(cores)),
        })
    }

    /// More bytes than this nobody holds.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}

/// `percent` of `whole`, and one at the least.
fn part(whole: usize, percent: usize) -> usize {
    // In 128 bits, where nothing overflows; what comes of it is no more than it was.
    ((whole as u128 * percent as u128 / 100) as usize).max(1)
}

/// Where there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// In the queue.
    #[error("the queue is full")]
    Queue,
    /// In the sender's share of it.
    #[error("the sender's share of the queue is full")]
    Share,
    /// In the sender's share of the spool.
    #[error("the sender's share of the spool is full")]
    SpoolShare,
}

/// A hold on some of the queue's capacity, and on as much of the sender's share of it, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    of: Arc<Room>,
    share: Option<Share>,
    jobs: usize,
    bytes: usize,
}

impl Reservation {
    pub(super) fn empty(of: Arc<Room>, share: Option<Share>) -> Self {
        Self { of, share, jobs: 0, bytes: 0 }
    }

    /// Holds at least so many bytes.
    ///
    /// # Errors
    /// When there is no room for them; no more than before is held then.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        self.take(0, bytes.saturating_sub(self.bytes))
    }

    /// Holds a job's place beside the bytes, unless its sender's share of the spool is full.
    pub(super) fn add_job(&mut self) -> Result<(), Full> {
        if self.spool().is_some_and(SpoolShare::is_full) {
            return Err(Full::SpoolShare);
        }
        self.take(1, 0)
    }

    /// What the sender may hold of the spool; none if that is all of it.
    pub(super) fn spool(&self) -> Option<&SpoolShare> {
        self.share.as_ref().and_then(Share::spool)
    }

    fn take(&mut self, jobs: usize, bytes: usize) -> Result<(), Full> {
        if jobs + bytes == 0 {
            return Ok(());
        }
        if self.share.as_ref().is_some_and(|share| !share.room.take(jobs, bytes)) {
            return Err(Full::Share);
        }
        if !self.of.take(jobs, bytes) {
            if let Some(share) = &self.share {
                share.room.give_back(jobs, bytes);
            }
            return Err(Full::Queue);
        }
        self.jobs += jobs;
        self.bytes += bytes;
        Ok(())
    }

    /// Moves what is held from one share to another: the sender is known now.
    ///
    /// # Errors
    /// When there is no room for it; everything is as before then.
    pub fn move_to(&mut self, share: Option<&Share>) -> Result<(), Full> {
        if share.is_some_and(|share| !share.room.take(self.jobs, self.bytes)) {
            return Err(Full::Share);
        }
        if let Some(share) = std::mem::replace(&mut self.share, share.cloned()) {
            share.room.give_back(self.jobs, self.bytes);
        }
        Ok(())
    }

    /// Holds at most so many bytes.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.give_back(0, less);
        self.bytes -= less;
    }

    fn give_back(&self, jobs: usize, bytes: usize) {
        self.of.give_back(jobs, bytes);
        if let Some(share) = &self.share {
            share.room.give_back(jobs, bytes);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.jobs, self.bytes);
    }
}
