//! The capacity of the queue, the shares of it that tenants may use, and reservations of it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::bound::{Bound, part};
use crate::cores::cores;
use crate::spool::{SpoolLimit, SpoolShare};
use crate::trace::JobTrace;

/// The capacity of the queue, or of one tenant's share of it, in jobs and in bytes.
#[derive(Debug)]
pub(super) struct Capacity {
    pub(super) jobs: Bound,
    pub(super) bytes: Bound,
}

impl Capacity {
    pub(super) fn new(max_jobs: usize, max_bytes: usize) -> Self {
        Self { jobs: Bound::new(max_jobs), bytes: Bound::new(max_bytes) }
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
            self.jobs.release(jobs);
        }
        taken
    }

    fn release(&self, jobs: usize, bytes: usize) {
        self.jobs.release(jobs);
        self.bytes.release(bytes);
    }
}

/// The part of the queue and of the spool that one tenant may use. Clones are the same share.
#[derive(Debug, Clone)]
pub struct Share {
    pub(super) capacity: Arc<Capacity>,
    /// None if the tenant may use the whole spool.
    spool: Option<SpoolShare>,
    decode_permits: Arc<Semaphore>,
}

impl Share {
    /// Whether a job of this tenant would be rejected now, whatever its size.
    pub fn is_full(&self) -> bool {
        self.full().is_some()
    }

    /// Why a job of this tenant would be rejected now, whatever its size.
    pub fn full(&self) -> Option<Full> {
        if self.capacity.is_full() {
            return Some(Full::Share);
        }
        self.spool.as_ref().is_some_and(SpoolShare::is_full).then_some(Full::SpoolShare)
    }

    /// The bytes of the queue that the tenant uses.
    pub fn queued_bytes(&self) -> usize {
        self.capacity.bytes.used()
    }

    /// The tenant's share of the spool; none if it may use the whole spool.
    pub fn spool(&self) -> Option<&SpoolShare> {
        self.spool.as_ref()
    }

    /// Permits to decode large bodies of this tenant, so that those of other tenants do not wait behind all of them.
    pub fn decode_permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.decode_permits)
    }
}

/// The limits of each tenant's share.
#[derive(Debug, Clone)]
pub struct ShareLimits {
    /// Whether every tenant may use everything, so that there are no shares.
    is_unlimited: bool,
    max_jobs: usize,
    max_bytes: usize,
    /// None if every tenant may use the whole spool.
    spool: Option<SpoolLimit>,
}

impl ShareLimits {
    /// `percent` of a queue of this size, and at least one job and one byte.
    pub(super) fn new(percent: usize, max_jobs: usize, max_bytes: usize) -> Self {
        let (max_jobs, max_bytes) = (part(max_jobs, percent), part(max_bytes, percent));
        Self { is_unlimited: percent >= 100, max_jobs, max_bytes, spool: None }
    }

    /// The same limits, and this one of the spool.
    pub fn with_spool(self, spool: Option<SpoolLimit>) -> Self {
        Self { is_unlimited: self.is_unlimited && spool.is_none(), spool, ..self }
    }

    /// A new, unused share; none if there are no limits.
    pub fn new_share(&self) -> Option<Share> {
        let cores = cores();
        (!self.is_unlimited).then(|| Share {
            capacity: Arc::new(Capacity::new(self.max_jobs, self.max_bytes)),
            spool: self.spool.clone().map(SpoolShare::new),
            // As many bodies as are decoded at once: a single active tenant uses every core.
            decode_permits: Arc::new(Semaphore::new(cores)),
        })
    }

    /// The most bytes of the queue that one tenant can use.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}

/// Which capacity is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// That of the queue.
    #[error("the queue is full")]
    Queue,
    /// The tenant's share of the queue.
    #[error("the tenant's share of the queue is full")]
    Share,
    /// The tenant's share of the spool.
    #[error("the tenant's share of the spool is full")]
    SpoolShare,
}

/// Reserved capacity of the queue, which counts against the tenant's share too. Released on drop.
#[derive(Debug)]
pub struct Reservation {
    queue: Arc<Capacity>,
    share: Option<Share>,
    jobs: usize,
    bytes: usize,
    /// The trace of the request, if it is sampled.
    pub(super) trace: Option<Box<JobTrace>>,
}

impl Reservation {
    pub(super) fn empty(queue: Arc<Capacity>, share: Option<Share>) -> Self {
        Self { queue, share, jobs: 0, bytes: 0, trace: None }
    }

    /// Attaches the trace of a sampled request to the job that it will be.
    pub(crate) fn set_trace(&mut self, trace: Box<JobTrace>) {
        self.trace = Some(trace);
    }

    /// Reserves at least `bytes` in total.
    ///
    /// # Errors
    /// [`Full`]; the reservation is unchanged.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        self.take(0, bytes.saturating_sub(self.bytes))
    }

    /// Reserves the job that the request will be, unless it is reserved already or the tenant's share of the spool is full.
    ///
    /// # Errors
    /// [`Full`]; the reservation is unchanged.
    pub fn add_job(&mut self) -> Result<(), Full> {
        if self.jobs > 0 {
            return Ok(());
        }
        if self.spool().is_some_and(SpoolShare::is_full) {
            return Err(Full::SpoolShare);
        }
        self.take(1, 0)
    }

    /// The tenant's share of the spool; none if it may use the whole spool.
    pub(super) fn spool(&self) -> Option<&SpoolShare> {
        self.share.as_ref().and_then(Share::spool)
    }

    fn take(&mut self, jobs: usize, bytes: usize) -> Result<(), Full> {
        if jobs + bytes == 0 {
            return Ok(());
        }
        if self.share.as_ref().is_some_and(|share| !share.capacity.take(jobs, bytes)) {
            return Err(Full::Share);
        }
        if !self.queue.take(jobs, bytes) {
            if let Some(share) = &self.share {
                share.capacity.release(jobs, bytes);
            }
            return Err(Full::Queue);
        }
        self.jobs += jobs;
        self.bytes += bytes;
        Ok(())
    }

    /// Charges the reservation to another share, once the tenant is known.
    ///
    /// # Errors
    /// [`Full`]; the reservation is unchanged.
    pub fn move_to(&mut self, share: Option<&Share>) -> Result<(), Full> {
        if share.is_some_and(|share| !share.capacity.take(self.jobs, self.bytes)) {
            return Err(Full::Share);
        }
        if let Some(share) = std::mem::replace(&mut self.share, share.cloned()) {
            share.capacity.release(self.jobs, self.bytes);
        }
        Ok(())
    }

    /// Reserves at most `bytes` in total.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.release(0, less);
        self.bytes -= less;
    }

    fn release(&self, jobs: usize, bytes: usize) {
        self.queue.release(jobs, bytes);
        if let Some(share) = &self.share {
            share.capacity.release(jobs, bytes);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(self.jobs, self.bytes);
    }
}
