//! Commands of the system, such as `mount` and `ip`.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Runs a command to its end.
/// Errors: it is not installed, or fails.
pub(super) fn run(command: &mut Command) -> anyhow::Result<()> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// Errors: this process is not root's.
pub(super) fn need_root(what: &str) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "{what} can be made by root only: run this as root");
    Ok(())
}
