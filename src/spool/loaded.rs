//! A segment's bytes, read back for its upload.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::buffers::Room;
use crate::disk::{Disk, naming};
use crate::segment::SegmentId;
use crate::segment::file::{self, Salvage};

/// A segment's bytes, for as long as they are needed.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The object.
    pub body: Bytes,
    /// What is in it, and what was lost.
    pub salvage: Salvage,
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
        Self { is_gone: true, ..Self::default() }
    }

    /// Whether the file is gone.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }
}

/// Reads a segment's file as far as it was committed, and leaves in the buffer what of it is good, which is the object.
pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    id: SegmentId,
    good: usize,
    mut file: Vec<u8>,
) -> io::Result<(Bytes, Salvage)> {
    disk.read(path, &mut file).map_err(naming(path))?;
    // What was appended after the last good commit failed: its jobs were refused.
    file.truncate(good);
    let salvage = file::salvage(id, &file);
    let mut len = 0;
    for data in &salvage.data {
        file.copy_within(data.clone(), len);
        len += data.len();
    }
    file.truncate(len);
    Ok((Bytes::from(file), salvage))
}
