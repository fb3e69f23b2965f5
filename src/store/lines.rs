//! Counts the lines of a stored object, which are its payloads. A directory keeps no metadata.

use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// The size of the read buffers.
const BUFFER_BYTES: usize = 64 * 1024;

/// Counts the lines of an object, decompressed as the extension of `path` says.
///
/// # Errors
/// The object cannot be read or decompressed to its end.
pub(super) fn count(path: &Path, object: impl Read) -> io::Result<u64> {
    let object = BufReader::with_capacity(BUFFER_BYTES, object);
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        Some("gz") => count_lines(MultiGzDecoder::new(object)),
        Some("zst") => count_lines(zstd::Decoder::with_buffer(object)?),
        _ => count_lines(object),
    }
}

fn count_lines(mut text: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut count = 0;
    loop {
        match text.read(&mut buffer) {
            Ok(0) => return Ok(count),
            Ok(read) => count += memchr::memchr_iter(b'\n', buffer.get(..read).unwrap_or_default()).count() as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
