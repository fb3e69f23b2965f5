//! The heap profile of jemalloc, in builds with the feature `heap-profile`. It samples one allocation for each 512 KiB, from
//! the start of the process.

use super::{ProfileError, ProfileSlot};

/// How long a heap profile is expected to take.
#[cfg(feature = "heap-profile")]
const DURATION: std::time::Duration = std::time::Duration::from_secs(1);

/// The live allocations in pprof's format.
#[cfg(feature = "heap-profile")]
pub(crate) async fn heap(slot: &ProfileSlot) -> Result<Vec<u8>, ProfileError> {
    let permit = slot.acquire(DURATION)?;
    let dump = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let control = jemalloc_pprof::PROF_CTL.as_ref();
        let control = control.ok_or_else(|| {
            ProfileError::Failed("jemalloc does not sample: it was started with prof:false".to_owned())
        })?;
        control.blocking_lock().dump_pprof().map_err(|error| ProfileError::Failed(error.to_string()))
    });
    dump.await.unwrap_or_else(|error| Err(ProfileError::Failed(error.to_string())))
}

/// The live allocations in pprof's format.
#[cfg(not(feature = "heap-profile"))]
pub(crate) async fn heap(_slot: &ProfileSlot) -> Result<Vec<u8>, ProfileError> {
    Err(ProfileError::NoHeapProfiler)
}
