//! A server's memory and open files while something is done to it.

use std::time::Duration;

use serde::Serialize;

use crate::server::Usage;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// The most that was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Open files.
    pub files: usize,
}

/// Whom to look at.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// The process.
    pub pid: u32,
}

impl Watch {
    /// What it has now; nothing if it is gone.
    pub fn look(self) -> Option<Peak> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count();
        Some(Peak { resident: Usage::of(self.pid)?.resident, files })
    }

    /// The most that it has while `work` is done, and the work's result.
    pub async fn during<T>(self, work: impl Future<Output = T>) -> (T, Peak) {
        let mut peak = Peak::default();
        let looking = async {
            let mut every = tokio::time::interval(EVERY);
            loop {
                every.tick().await;
                let now = self.look().unwrap_or_default();
                peak = Peak { resident: peak.resident.max(now.resident), files: peak.files.max(now.files) };
            }
        };
        let done = tokio::select! {
            done = work => done,
            () = looking => unreachable!("it looks for ever"),
        };
        (done, peak)
    }
}
