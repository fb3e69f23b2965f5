//! File descriptors: each connection needs one.

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For everything but the connections: logs, timers, the store.
const OTHERS: u64 = 256;

/// Raises the limit of this process so that it can hold so many connections.
///
/// # Errors
///
/// The system does not allow it.
pub(crate) fn allow(connections: u32) -> anyhow::Result<()> {
    let needed = u64::from(connections) + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(maximum) = limit.maximum {
        ensure!(
            maximum >= needed,
            "{connections} connections need {needed} open files, and the system allows {maximum}: raise it with ulimit -Hn"
        );
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).with_context(|| format!("raising the limit of open files to {needed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_cannot_give_is_told_in_figures() {
        allow(1).unwrap();
        if getrlimit(Resource::Nofile).maximum.is_some_and(|maximum| maximum < u64::from(u32::MAX)) {
            let wrong = allow(u32::MAX).unwrap_err().to_string();
            assert!(wrong.contains("4294967295 connections need 4294967551 open files"), "{wrong}");
        }
    }
}
