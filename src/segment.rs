//! A segment becomes one object: its id, the key that follows from the id, and its frames. Pure.
//!
//! A frame is what one commit adds: the lines of the jobs that were queued, compressed on their own. Concatenated gzip
//! members (RFC 1952, 2.2) are one valid file, and so are concatenated zstd frames (RFC 8878, 3).

pub mod file;
mod frame;
mod id;
mod name;
mod receipt;
mod repack;
pub mod salvage;

pub use frame::FrameEncoder;
pub use id::SegmentId;
pub use name::{Committed, SegmentName};
pub use receipt::{InvalidJobId, JobId};
pub use repack::{Repacker, are_small};

/// The most bytes of lines in a frame of several jobs: enough for a good compression ratio, and small compared to an object.
pub const FRAME_MAX_BYTES: usize = 512 * 1024;
/// A larger segment was not made by millpond: an object of 5 GiB is sealed, one frame has at most 4 GiB, and the rest is more than the headers
/// of frames can have.
pub(crate) const SEGMENT_MAX_BYTES: usize = 16 << 30;

/// The codec of a segment's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, RFC 1952.
    Gzip,
    /// zstd, RFC 8878.
    Zstd,
    /// No compression.
    None,
}

impl Compression {
    /// Every codec.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::None];

    /// The name in settings and subjects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::None => "none",
        }
    }

    /// The extension of an object's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gzip => "ndjson.gz",
            Self::Zstd => "ndjson.zst",
            Self::None => "ndjson",
        }
    }
}
