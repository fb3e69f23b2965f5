//! A segment's bytes, read back for its upload.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::buffers::Room;
use crate::disk::{Disk, naming};
use crate::segment::SegmentId;
use crate::segment::file::{self, PossiblyLost, Salvage};

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

/// Reads a segment's file as far as it was committed, and leaves in the buffer the good frames, one after the other; with
/// how long each of them is.
pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    id: SegmentId,
    good: usize,
    mut file: Vec<u8>,
) -> io::Result<(Vec<u8>, Vec<usize>, Salvage)> {
    disk.read(path, &mut file).map_err(naming(path))?;
    // What was appended after the last good commit failed: its jobs were refused.
    file.truncate(good);
    let mut salvage = file::salvage(id, &file);
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
