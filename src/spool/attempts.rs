//! What was tried with a sealed segment so far. It travels with the segment, since the next worker that takes it may be
//! another one.

use std::time::Duration;

use tokio::time::Instant;

use super::loaded::{LoadError, Reading};

/// An unreadable sector (EIO) is salvaged around after so many failed reads, and no sooner than after this time: an error that
/// passes, such as that of a device which is away for a moment, costs nothing.
const WHOLE_READS_MAX: u32 = 4;
const WHOLE_READS_TIME: Duration = Duration::from_secs(10);

/// The attempts to upload one segment.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Attempts that failed, of any kind.
    pub failures: u32,
    /// Of those, the ones that came as far as the store.
    pub upload_failures: u32,
    /// An earlier attempt may have stored the object without our knowing.
    pub may_be_there: bool,
    /// The fewest payloads of an attempt of which it is not known whether it stored the object.
    pub put_payloads: Option<u64>,
    /// The store took other objects between two failures of this one: the failure is the segment's own.
    pub is_own_failure: bool,
    /// How many objects the store had taken when this segment failed last.
    pub objects_seen: u64,
    /// The jobs and payloads that are in the ledger for it, those found damaged included; none before the first read.
    pub booked: Option<(u32, u32)>,
    /// Reads that failed with EIO, in a row, and when the first of them did.
    unreadable: u32,
    unreadable_since: Option<Instant>,
    /// Packing its small frames panicked.
    pub(super) is_packing_off: bool,
    /// Not to be taken before.
    pub(super) not_before: Option<Instant>,
}

impl Attempts {
    /// It may have stored the object and died before it could remove the segment.
    pub(super) fn of_a_dead_process() -> Self {
        Self { may_be_there: true, ..Self::default() }
    }

    pub(super) fn reading(&self) -> Reading {
        let lasts = self.unreadable_since.is_some_and(|since| since.elapsed() >= WHOLE_READS_TIME);
        if lasts && self.unreadable >= WHOLE_READS_MAX { Reading::Around } else { Reading::Whole }
    }

    pub(super) fn load_failed(&mut self, error: &LoadError) {
        match error {
            LoadError::Unreadable { is_sector: true, .. } => {
                self.unreadable = self.unreadable.saturating_add(1);
                self.unreadable_since.get_or_insert_with(Instant::now);
            }
            LoadError::Unreadable { .. } => (self.unreadable, self.unreadable_since) = (0, None),
            LoadError::Packing => self.is_packing_off = true,
            LoadError::Failed(_) => {}
        }
    }
}
