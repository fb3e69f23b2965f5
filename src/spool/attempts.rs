//! The earlier attempts to upload a sealed segment. They are kept with the segment, since each attempt may be made by another
//! worker.

use std::time::Duration;

use tokio::time::Instant;

/// Unreadable sectors (EIO) are skipped after this many failed reads and this much time. A temporary error, such as that of a
/// device that is away, then loses nothing.
const WHOLE_READS_MAX: u32 = 4;
const WHOLE_READS_TIME: Duration = Duration::from_secs(10);

/// The attempts to upload one segment.
#[derive(Debug, Default)]
pub struct Attempts {
    /// All failed attempts.
    pub failures: u32,
    /// The failed attempts that reached the store.
    pub upload_failures: u32,
    /// Whether an earlier attempt, also of another process, may have stored the object.
    pub may_be_stored: bool,
    /// The fewest payloads of an attempt with an unknown outcome.
    pub unconfirmed_payloads: Option<u64>,
    /// Whether the store took other objects between two failures of this segment, so that the store is not what fails.
    pub is_own_failure: bool,
    /// How many objects the store had taken when this segment failed last.
    pub objects_seen: u64,
    /// The jobs and payloads of the segment in the ledger, dead ones included; none before the first read.
    pub recorded: Option<(u32, u32)>,
    /// Consecutive reads that failed with EIO, and when the first of them did.
    sector_errors: u32,
    sector_errors_since: Option<Instant>,
    /// Whether repacking its frames has panicked.
    pub(super) is_repacking_off: bool,
    /// The segment is not retried before.
    pub(super) not_before: Option<Instant>,
}

/// Why a segment could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Its file cannot be read now.
    #[error("reading the spool: {message}")]
    Unreadable {
        /// The device could not read a part of it (EIO).
        is_sector: bool,
        /// There is no such file.
        is_missing: bool,
        /// The error of the operating system, with the path.
        message: String,
    },
    /// Repacking panicked. The next load of this segment does not repack it.
    #[error("repacking small frames panicked; the segment is uploaded without it")]
    Repacking,
    /// There is no thread or no memory for it.
    #[error("loading a segment: {0}")]
    Failed(String),
}

/// How to read a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadMode {
    Whole,
    SkipErrors,
}

impl Attempts {
    /// The exited process may have stored the object and died before it removed the segment.
    pub(super) fn of_exited_process() -> Self {
        Self { may_be_stored: true, ..Self::default() }
    }

    /// Records the jobs and payloads that a read has found. A later read that finds fewer has found damage.
    pub fn record(&mut self, jobs: u64, payloads: u64) {
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let (jobs_before, payloads_before) = self.recorded.unwrap_or_default();
        self.recorded = Some((number(jobs).max(jobs_before), number(payloads).max(payloads_before)));
    }

    pub(super) fn read_mode(&self) -> ReadMode {
        let has_lasted = self.sector_errors_since.is_some_and(|since| since.elapsed() >= WHOLE_READS_TIME);
        if has_lasted && self.sector_errors >= WHOLE_READS_MAX { ReadMode::SkipErrors } else { ReadMode::Whole }
    }

    pub(super) fn load_failed(&mut self, error: &LoadError) {
        match error {
            LoadError::Unreadable { is_sector: true, .. } => {
                self.sector_errors = self.sector_errors.saturating_add(1);
                self.sector_errors_since.get_or_insert_with(Instant::now);
            }
            LoadError::Unreadable { .. } => (self.sector_errors, self.sector_errors_since) = (0, None),
            LoadError::Repacking => self.is_repacking_off = true,
            LoadError::Failed(_) => {}
        }
    }
}
