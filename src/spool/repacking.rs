//! Repacks the small frames of segments, on a thread that may block, one segment at a time.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinError;

use super::attempts::LoadError;
use crate::segment::{Compression, Repacker};

type Repack = fn(&mut Repacker, Compression, &mut Vec<u8>, &[usize]);

/// The repacker of all segments: it takes memory and a core, so there is only one.
#[derive(Debug, Clone)]
pub(super) struct Repacking {
    repacker: Arc<Mutex<Repacker>>,
    repack: Repack,
}

impl Default for Repacking {
    fn default() -> Self {
        Self::with(Repacker::repack)
    }
}

impl Repacking {
    pub(super) fn with(repack: Repack) -> Self {
        Self { repacker: Arc::default(), repack }
    }

    /// Repacks frames of the lengths `frames`. `bytes` returns them, and is called when no other segment is being repacked.
    ///
    /// # Errors
    /// [`LoadError::Repacking`] if it panicked. The bytes are dropped.
    pub(super) async fn repack(
        &self,
        compression: Compression,
        frames: Vec<usize>,
        bytes: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, LoadError> {
        let mut shared = Arc::clone(&self.repacker).lock_owned().await;
        let repack = self.repack;
        let repacked = tokio::task::spawn_blocking(move || {
            // Taken out, so that its state is not used again after a panic.
            let mut repacker = std::mem::take(&mut *shared);
            let mut bytes = bytes();
            repack(&mut repacker, compression, &mut bytes, &frames);
            *shared = repacker;
            bytes
        });
        let failed = |error: JoinError| match error.is_panic() {
            true => LoadError::Repacking,
            false => LoadError::Failed(error.to_string()),
        };
        repacked.await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::iter;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::config::{ObjectSettings, SpoolSettings};
    use crate::disk::RealDisk;
    use crate::inflate::{Encoding, inflate};
    use crate::segment::FrameEncoder;
    use crate::spool::Spool;

    #[tokio::test]
    async fn a_panic_during_repacking_does_not_prevent_the_upload() {
        let folder = tempfile::tempdir().unwrap();
        let settings = SpoolSettings { dir: folder.path().to_owned(), max_bytes: 1 << 20 };
        let compression = Compression::Gzip;
        let (max_age, stored_linger, stored_interval) = (Duration::from_secs(60), Duration::ZERO, Duration::ZERO);
        let objects = ObjectSettings { max_bytes: 1 << 20, max_age, stored_linger, stored_interval, compression };
        let on_disk = Spool::on_disk(&settings, &objects, Arc::new(RealDisk)).unwrap().0;
        for mut spool in [Spool::in_memory(compression), on_disk] {
            spool.repacking = Repacking::with(|_, _, _, _| panic!("a bug in the repacker"));
            let mut encoder = FrameEncoder::new(compression).unwrap();
            let mut open = spool.open(SystemTime::now(), 1000).unwrap();
            for _ in 0..3 {
                open.commit(1, 1, |out| encoder.pack(iter::once(b"{}\n".as_slice()), out)).await.unwrap();
            }
            let mut sealed = open.seal().unwrap();
            assert_eq!(spool.load(&mut sealed).await.unwrap_err(), LoadError::Repacking);
            let loaded = spool.load(&mut sealed).await.unwrap();
            assert_eq!(inflate(Encoding::Gzip, &loaded.body, 100).unwrap(), b"{}\n{}\n{}\n");
            assert_eq!((loaded.salvage.jobs, loaded.saved_bytes), (3, 0));
        }
    }
}
