//! Packing a segment's small frames together, on a thread that may block, one segment after the other.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::loaded::LoadError;
use crate::segment::{Compression, Repacker};

type Pack = fn(&mut Repacker, Compression, &mut Vec<u8>, &[usize]);

/// The one that packs: it takes memory and a processor, so there is one for all segments.
#[derive(Debug, Clone)]
pub(super) struct Packing {
    repacker: Arc<Mutex<Repacker>>,
    pack: Pack,
}

impl Default for Packing {
    fn default() -> Self {
        Self::with(Repacker::repack)
    }
}

impl Packing {
    pub(super) fn with(pack: Pack) -> Self {
        Self { repacker: Arc::default(), pack }
    }

    /// Packs `bytes`, which are frames of the lengths `frames`. `bytes` is called when it is this segment's turn.
    ///
    /// # Errors
    /// [`LoadError::Packing`] when it panicked: what it was given may be half packed then, and is dropped.
    pub(super) async fn pack(
        &self,
        compression: Compression,
        frames: Vec<usize>,
        bytes: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, LoadError> {
        let mut turn = Arc::clone(&self.repacker).lock_owned().await;
        let pack = self.pack;
        let packed = tokio::task::spawn_blocking(move || {
            // Taken out, so that what a panic leaves half done is not used again.
            let mut repacker = std::mem::take(&mut *turn);
            let mut bytes = bytes();
            pack(&mut repacker, compression, &mut bytes, &frames);
            *turn = repacker;
            bytes
        });
        packed.await.map_err(
            |error| {
                if error.is_panic() { LoadError::Packing } else { LoadError::Failed(error.to_string()) }
            },
        )
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
    async fn a_panic_while_packing_costs_the_packing_and_not_the_upload() {
        let folder = tempfile::tempdir().unwrap();
        let settings = SpoolSettings { dir: folder.path().to_owned(), max_bytes: 1 << 20 };
        let compression = Compression::Gzip;
        let (max_age, stored_linger, stored_interval) = (Duration::from_secs(60), Duration::ZERO, Duration::ZERO);
        let objects = ObjectSettings { max_bytes: 1 << 20, max_age, stored_linger, stored_interval, compression };
        let on_disk = Spool::on_disk(&settings, &objects, Arc::new(RealDisk)).unwrap().0;
        for mut spool in [Spool::in_memory(compression), on_disk] {
            spool.packing = Packing::with(|_, _, _, _| panic!("a bug in the repacker"));
            let mut encoder = FrameEncoder::new(compression).unwrap();
            let mut open = spool.open(SystemTime::now(), 1000).unwrap();
            for _ in 0..3 {
                open.commit(1, 1, |out| encoder.pack(iter::once(b"{}\n".as_slice()), out)).unwrap();
            }
            let mut sealed = open.seal();
            assert_eq!(spool.load(&mut sealed).await.unwrap_err(), LoadError::Packing);
            let loaded = spool.load(&mut sealed).await.unwrap();
            assert_eq!(inflate(Encoding::Gzip, &loaded.body, 100).unwrap(), b"{}\n{}\n{}\n");
            assert_eq!((loaded.salvage.jobs, loaded.saved), (3, 0));
        }
    }
}
