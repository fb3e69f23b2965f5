//! Readings of the file system, which may block: the space of the disk, and the damaged files. They are taken on a blocking
//! thread, one at a time, so that a file system that does not respond delays no snapshot and holds one thread at most.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::spool::Spool;

/// The time between two readings.
const INTERVAL: Duration = Duration::from_secs(10);

/// The file system of the spool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DiskReading {
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) dead_files: usize,
    pub(super) dead_bytes: u64,
}

/// The last reading, and the next one.
#[derive(Debug, Default)]
pub(super) struct DiskReader {
    last: Option<DiskReading>,
    running: JoinSet<Option<DiskReading>>,
    next: Option<Instant>,
}

impl DiskReader {
    /// The last reading. Begins the next one when it is due.
    pub(super) fn poll(&mut self, spool: &Arc<Spool>) -> Option<DiskReading> {
        while let Some(done) = self.running.try_join_next() {
            self.last = done.ok().flatten();
        }
        let now = Instant::now();
        if self.running.is_empty() && self.next.is_none_or(|next| next <= now) {
            self.next = Some(now + INTERVAL);
            let spool = Arc::clone(spool);
            self.running.spawn_blocking(move || read(&spool));
        }
        self.last
    }
}

fn read(spool: &Spool) -> Option<DiskReading> {
    let (free_bytes, total_bytes) = space(spool.dir()?)?;
    let (dead_files, dead_bytes) = spool.damaged_files().unwrap_or_default();
    Some(DiskReading { free_bytes, total_bytes, dead_files, dead_bytes })
}

/// The bytes that a process without privileges can still write, and the size of the file system.
fn space(dir: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}
