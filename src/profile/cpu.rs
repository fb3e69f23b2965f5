//! The CPU profiler: SIGPROF interrupts the thread that uses the CPU, once for each tick of the process's CPU time, and the
//! handler unwinds its stack. Threads that wait do not appear.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use tokio::task;

use super::stacks::CpuProfile;
use super::{ProfileError, ProfilePermit};
use crate::shutdown::Shutdown;

/// The longest profile, in seconds.
pub(crate) const SECONDS_MAX: u32 = 60;
/// The length of a profile if none is given, in seconds.
pub(crate) const SECONDS_DEFAULT: u32 = 10;
/// The highest rate, in samples per second of CPU time: the tick of common kernels.
pub(crate) const RATE_MAX: u32 = 250;
/// The rate if none is given. No divisor of a round number, so that it does not run in step with a timer.
pub(crate) const RATE_DEFAULT: u32 = 99;

/// What to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuSettings {
    /// How long, in seconds.
    pub(crate) seconds: u32,
    /// Samples per second of CPU time.
    pub(crate) rate: u32,
}

impl CpuSettings {
    /// The length of the profile.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// Takes a profile and renders it. It ends early, with what it has, when `shutdown` begins. Dropping the future ends it at
/// once, and frees the slot.
pub(crate) async fn record(
    mut permit: ProfilePermit,
    settings: CpuSettings,
    shutdown: &Shutdown,
    render: impl FnOnce(&CpuProfile) -> Vec<u8> + Send + 'static,
) -> Result<Vec<u8>, ProfileError> {
    if shutdown.is_draining() {
        return Err(ProfileError::Draining);
    }
    let (finish, finished) = channel();
    // On a thread that may block: starting takes milliseconds, and naming the functions reads the debug information.
    let mut recording = task::spawn_blocking(move || {
        let profile = sample(settings, &finished);
        if matches!(finished.try_recv(), Err(TryRecvError::Disconnected)) {
            permit.cancelled();
        }
        // Held until the profile is rendered, which takes memory.
        let rendered = render(&profile?);
        drop(permit);
        Ok(rendered)
    });
    let joined = tokio::select! {
        joined = &mut recording => joined,
        () = shutdown.draining() => {
            let _ = finish.send(());
            recording.await
        }
    };
    joined.unwrap_or_else(|error| Err(ProfileError::Failed(error.to_string())))
}

/// Samples until the time has passed or `finished` has a message; fails when its sender is dropped.
fn sample(settings: CpuSettings, finished: &Receiver<()>) -> Result<CpuProfile, ProfileError> {
    // The profiler never recovers from a failure to create its file, so it is not started without one.
    tempfile::tempfile().map_err(ProfileError::TemporaryFile)?;
    let rate = i32::try_from(settings.rate).unwrap_or(i32::MAX);
    let guard = rpprof::ProfilerGuardBuilder::default().frequency(rate).build()?;
    if finished.recv_timeout(settings.duration()) == Err(RecvTimeoutError::Disconnected) {
        return Err(ProfileError::Failed("the client is gone".to_owned()));
    }
    let missed = guard.missed_samples();
    let report = guard.report().build_unresolved()?;
    drop(guard);
    // Starting the profiler reads the debug information for a backtrace of its own.
    backtrace::clear_symbol_cache();
    Ok(CpuProfile::new(&report, missed))
}

impl From<rpprof::Error> for ProfileError {
    fn from(error: rpprof::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
