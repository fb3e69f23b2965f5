//! A segment's bytes, read back for its upload.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::buffers::Room;
use crate::disk::{Disk, is_unreadable, naming};
use crate::segment::SegmentId;
use crate::segment::file::{self, PossiblyLost, Salvage};

/// Why a segment could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Its file cannot be read now.
    #[error("reading the spool: {message}")]
    Unreadable {
        /// The device could not read a part of it (EIO).
        is_sector: bool,
        /// There is no such file.
        is_missing: bool,
        /// What the system said, and of which file.
        message: String,
    },
    /// The code that packs small frames panicked: it is not called for this segment again.
    #[error("packing small frames together panicked; the segment is uploaded as it is")]
    Packing,
    /// Memory for it, or a thread, is not to be had.
    #[error("loading a segment: {0}")]
    Failed(String),
}

/// A segment's bytes, for as long as they are needed.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The object.
    pub body: Bytes,
    /// What is in it, and what was lost.
    pub salvage: Salvage,
    /// Bytes that the object lost when small frames were packed anew.
    pub saved: usize,
    pub(super) room: Option<Room>,
    /// Whether the file is there no more.
    pub(super) is_gone: bool,
}

impl Loaded {
    /// The bytes are needed no more: others may have the memory.
    pub fn release(self) {
        if let Some(room) = self.room {
            room.give_back(self.body);
        }
    }

    /// What is left of a file that is gone.
    pub fn gone() -> Self {
        let salvage = Salvage { possibly_lost: Some(PossiblyLost::unknown(0)), ..Salvage::default() };
        Self { salvage, is_gone: true, ..Self::default() }
    }

    /// Whether the file is gone.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }
}

/// How a segment's file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// All of it, or not at all.
    Whole,
    /// As far as the disk can read it.
    Around,
}

/// Reads a segment's file as far as it was committed, and leaves in the buffer the good frames, one after the other; with
/// how long each of them is.
pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    id: SegmentId,
    good: usize,
    reading: Reading,
    mut file: Vec<u8>,
) -> Result<(Vec<u8>, Vec<usize>, Salvage), LoadError> {
    let failed = |error: io::Error| LoadError::Unreadable {
        is_sector: is_unreadable(&error),
        is_missing: error.kind() == io::ErrorKind::NotFound,
        message: naming(path)(error).to_string(),
    };
    let unreadable = match reading {
        Reading::Whole => disk.read(path, &mut file).map(|()| Vec::new()),
        Reading::Around => disk.read_skipping_errors(path, &mut file),
    };
    let unreadable = unreadable.map_err(failed)?;
    // What was appended after the last good commit failed: its jobs were refused.
    file.truncate(good);
    let mut salvage = file::salvage(id, &file);
    salvage.unreadable = unreadable.iter().map(|range| range.end.min(good).saturating_sub(range.start)).sum();
    let mut len = 0;
    // They are where they were no more.
    let data = std::mem::take(&mut salvage.data);
    let frames = data.into_iter().map(|data| {
        let frame = data.len();
        file.copy_within(data, len);
        len += frame;
        frame
    });
    let frames = frames.collect();
    file.truncate(len);
    Ok((file, frames, salvage))
}
