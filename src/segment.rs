//! A segment is an S3 object in the making: its id, the key that follows from the id, and the frames it is made of.
//!
//! A frame is what one commit adds: the lines of every job that was waiting, compressed on their own. Frames of either
//! codec concatenate: gzip members (RFC 1952, 2.2) and zstd frames (RFC 8878, 3) one after the other are one valid
//! file. Everything here is pure; where the bytes live is the spool's business.

pub mod file;
mod frame;
mod id;
mod receipt;
mod repack;
mod tail;

pub use frame::FrameEncoder;
pub use id::SegmentId;
pub use receipt::{InvalidJobId, JobId};
pub use repack::{FrameSizes, Repacker};

/// A frame is closed when it holds this many bytes of lines: enough for the codec to do well, little beside an object.
pub const FRAME_MAX_BYTES: usize = 512 * 1024;

/// The codec of a segment's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, RFC 1952.
    Gzip,
    /// zstd, RFC 8878.
    Zstd,
    /// Lines as they are.
    None,
}

impl Compression {
    /// Every codec.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::None];

    /// What an object's name ends in.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gzip => "ndjson.gz",
            Self::Zstd => "ndjson.zst",
            Self::None => "ndjson",
        }
    }
}
