//! Reads a segment back for its upload.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::Spool;
use super::attempts::{LoadError, ReadMode};
use super::buffers::BufferPermit;
use super::sealed::{SealedSegment, Source};
use crate::disk::{Disk, is_unreadable, with_path};
use crate::segment::salvage::{PossiblyLost, Salvage, salvage};
use crate::segment::{Compression, SegmentId, are_small};

/// The bytes of a segment in memory.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The object.
    pub body: Bytes,
    /// The jobs that it holds, and those that were lost.
    pub salvage: Salvage,
    /// Bytes saved by repacking small frames.
    pub saved_bytes: usize,
    /// Whether the file is missing.
    pub is_missing: bool,
    permit: Option<BufferPermit>,
}

impl Loaded {
    /// Releases the memory.
    pub fn release(self) {
        if let Some(permit) = self.permit {
            permit.recycle(self.body);
        }
    }

    /// The content of a file that is missing.
    pub fn missing() -> Self {
        let salvage = Salvage { possibly_lost: Some(PossiblyLost::unknown(0)), ..Salvage::default() };
        Self { salvage, is_missing: true, ..Self::default() }
    }
}

/// The valid frames of a segment, their lengths, and the rest of what its file held.
pub(super) type Frames = (Vec<u8>, Vec<usize>, Salvage);

impl Spool {
    pub(super) async fn load_once(&self, segment: &mut SealedSegment) -> Result<Loaded, LoadError> {
        let (id, compression) = (segment.status.id(), segment.status.compression());
        let may_repack = !segment.attempts.is_repacking_off;
        if let Source::Broker(item) = &segment.source {
            let (frames, permit) = self.load_remote(item, segment.attempts.failures).await?;
            return self.loaded(may_repack.then_some(compression), frames, permit).await;
        }
        match (&self.disk, &mut segment.source) {
            (Some(disk), Source::File { path, folder, len, .. }) => {
                let (buffer, permit) = disk.buffers.acquire(*len).await;
                let (disk, file, folder) = (Arc::clone(&disk.disk), path.clone(), Arc::clone(folder));
                let (len, mode) = (*len, segment.attempts.read_mode());
                let read = spawn_blocking(move || match read(&*disk, &file, id, len, mode, buffer) {
                    // A rename at the seal that was reported as failed may have been carried out.
                    Err(error @ LoadError::Unreadable { is_missing: true, .. }) => {
                        let renamed = folder.find(&*disk, id).ok_or(error)?;
                        Ok((read(&*disk, &renamed, id, len, mode, Vec::new())?, renamed))
                    }
                    other => Ok((other?, file)),
                });
                let read = read.await.unwrap_or_else(|error| Err(LoadError::Failed(error.to_string())));
                let (frames, found) = read?;
                *path = found;
                if segment.committed.is_none() {
                    let end = frames.2.possibly_lost.map_or(frames.2.total_jobs, |lost| lost.indexes().end);
                    segment.status.set_jobs(end);
                }
                self.loaded(may_repack.then_some(compression), frames, permit).await
            }
            (_, Source::Memory { body, frames }) => {
                let (jobs, payloads) = segment.committed.unwrap_or_default();
                let salvage =
                    Salvage { total_jobs: jobs, jobs: jobs.into(), payloads: payloads.into(), ..Salvage::default() };
                let len = body.len();
                if may_repack && are_small(compression, body, frames) {
                    let (frames, packed) = (std::mem::take(frames), body.clone());
                    *body = Bytes::from(self.repacking.repack(compression, frames, || Vec::from(packed)).await?);
                }
                let saved_bytes = len - body.len();
                Ok(Loaded { body: body.clone(), salvage, saved_bytes, ..Loaded::default() })
            }
            (_, Source::File { .. } | Source::Broker(_)) => {
                Err(LoadError::Failed("the segment is in another spool".to_owned()))
            }
        }
    }

    /// Repacks small frames that have the codec `repack`.
    async fn loaded(
        &self,
        repack: Option<Compression>,
        (mut bytes, frames, salvage): Frames,
        permit: Option<BufferPermit>,
    ) -> Result<Loaded, LoadError> {
        let len = bytes.len();
        if let Some(compression) = repack.filter(|compression| are_small(*compression, &bytes, &frames)) {
            bytes = self.repacking.repack(compression, frames, || bytes).await?;
        }
        let saved_bytes = len - bytes.len();
        Ok(Loaded { body: Bytes::from(bytes), salvage, saved_bytes, is_missing: false, permit })
    }
}

/// Reads a segment's file up to `len` into `file`, and finds its valid frames.
fn read(
    disk: &dyn Disk,
    path: &Path,
    id: SegmentId,
    len: usize,
    mode: ReadMode,
    file: Vec<u8>,
) -> Result<Frames, LoadError> {
    let (file, salvage) = examine(disk, path, id, len, mode, file)?;
    Ok(compact(file, salvage))
}

/// Moves the valid frames to the start of the buffer.
pub(super) fn compact(mut file: Vec<u8>, mut salvage: Salvage) -> Frames {
    let mut end = 0;
    // Taken, since the frames are moved.
    let ranges = std::mem::take(&mut salvage.data);
    let frames = ranges.into_iter().map(|range| {
        let frame = range.len();
        file.copy_within(range, end);
        end += frame;
        frame
    });
    let frames = frames.collect();
    file.truncate(end);
    (file, frames, salvage)
}

/// Reads a segment's file up to `len` into `file`, and finds its valid frames.
pub(super) fn examine(
    disk: &dyn Disk,
    path: &Path,
    id: SegmentId,
    len: usize,
    mode: ReadMode,
    mut file: Vec<u8>,
) -> Result<(Vec<u8>, Salvage), LoadError> {
    let failed = |error: io::Error| LoadError::Unreadable {
        is_sector: is_unreadable(&error),
        is_missing: error.kind() == io::ErrorKind::NotFound,
        message: with_path(path)(error).to_string(),
    };
    let unreadable = match mode {
        ReadMode::Whole => disk.read(path, &mut file).map(|()| Vec::new()),
        ReadMode::SkipErrors => disk.read_skipping_errors(path, &mut file),
    };
    let unreadable = unreadable.map_err(failed)?;
    // Bytes after the last commit that succeeded belong to jobs that were rejected.
    file.truncate(len);
    let mut salvage = salvage(id, &file);
    salvage.unreadable_bytes = unreadable.iter().map(|range| range.end.min(len).saturating_sub(range.start)).sum();
    Ok((file, salvage))
}
