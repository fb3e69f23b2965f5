//! What the operating system knows of this process. Every reading is a few system calls that do not block.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The size of a page on every platform that millpond runs on, unless the kernel was built for larger pages.
const PAGE_BYTES: u64 = 4096;

/// What does not change.
#[derive(Debug)]
pub(super) struct ProcessFacts {
    pub(super) host: String,
    pub(super) started: SystemTime,
}

impl ProcessFacts {
    pub(super) fn now() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { host: host.trim().to_owned(), started: SystemTime::now() }
    }
}

/// CPU time of all threads since the start.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// Resident memory in bytes.
pub(super) fn memory() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * PAGE_BYTES)
}

/// Open file descriptors, if the kernel reports them without listing them all (Linux 6.2 and later).
pub(super) fn open_files() -> Option<u64> {
    let count = fs::metadata("/proc/self/fd").ok()?.len();
    (count > 0).then_some(count)
}

/// The limit on open file descriptors.
pub(super) fn max_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
