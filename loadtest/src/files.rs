//! File descriptors: each connection needs one.

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For everything but the connections: logs, timers, the store.
const OTHERS: u64 = 256;

/// Raises the limit of this process so that it can have so many connections.
/// Errors: the system does not allow it.
pub(crate) fn allow(connections: u32) -> anyhow::Result<()> {
    let needed = u64::from(connections) + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let allowed = maximum.unwrap_or(u64::MAX);
    ensure!(
        allowed >= needed,
        "{connections} connections need {needed} open files, and the system allows {allowed}: raise it with ulimit -Hn"
    );
    let raised = Rlimit { current: Some(needed), maximum };
    setrlimit(Resource::Nofile, raised).with_context(|| format!("raising the limit of open files to {needed}"))
}
