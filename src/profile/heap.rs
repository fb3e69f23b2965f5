//! The heap profile of jemalloc, in builds with the feature `heap-profile`. It samples one allocation for each 512 KiB, from
//! the start of the process.

use super::{ProfileError, ProfilePermit};

/// The live allocations in pprof's format.
#[cfg(feature = "heap-profile")]
pub(crate) async fn heap(permit: ProfilePermit) -> Result<Vec<u8>, ProfileError> {
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
pub(crate) async fn heap(_permit: ProfilePermit) -> Result<Vec<u8>, ProfileError> {
    Err(ProfileError::NoHeapProfiler)
}
