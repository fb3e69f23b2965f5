//! A server's memory and open files during an attack.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::server::Usage;

/// The interval of samples.
const EVERY: Duration = Duration::from_millis(20);

/// Memory and files at one moment, or the peaks of both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Open files.
    pub files: usize,
}

/// A process to monitor.
#[derive(Debug, Clone, Copy)]
pub struct Monitor {
    /// Its process id.
    pub pid: u32,
}

impl Monitor {
    /// What it has now; `None` if it has exited.
    pub fn sample(self) -> Option<Peak> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count();
        Some(Peak { resident: Usage::of(self.pid)?.resident, files })
    }

    /// The result of `work`, and the peaks during it.
    pub async fn during<T>(self, work: impl Future<Output = T>) -> (T, Peak) {
        let mut peak = Peak::default();
        let sampling = async {
            let mut every = tokio::time::interval(EVERY);
            loop {
                every.tick().await;
                let now = self.sample().unwrap_or_default();
                peak = Peak { resident: peak.resident.max(now.resident), files: peak.files.max(now.files) };
            }
        };
        let done = tokio::select! {
            done = work => done,
            () = sampling => unreachable!("it samples without an end"),
        };
        (done, peak)
    }
}
