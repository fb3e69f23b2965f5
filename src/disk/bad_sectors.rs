//! Reads a file in spite of sectors that the device cannot read (EIO): the rest of the file is still good.

use std::io;
use std::ops::Range;

/// The bytes of one read while no read fails.
const CHUNK: usize = 64 * 1024;
/// A chunk that fails is read again in blocks of this size: a page, the unit in which the kernel reports a failure.
const BLOCK: usize = 4096;

/// Whether the error is EIO: the device could not read a part of the file.
pub fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Reads a file of `len` bytes into `buffer` with `read_at`, which works as `pread` does. Blocks that fail with EIO are zeros
/// in the buffer. Returns the ranges of these, in order and merged. The buffer is shorter than `len` if the file is.
///
/// # Errors
/// Any error other than EIO, and EIO if no block can be read: then the device is away, and its content may come back.
pub fn read_skipping_errors(
    len: usize,
    buffer: &mut Vec<u8>,
    mut read_at: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<Vec<Range<usize>>> {
    buffer.clear();
    buffer.resize(len, 0);
    let (mut at, mut step, mut readable) = (0, CHUNK, 0);
    let mut unreadable: Vec<Range<usize>> = Vec::new();
    while at < len {
        let end = (at - at % step).saturating_add(step).min(len);
        let Some(part) = buffer.get_mut(at..end) else { break };
        match read_at(part, at as u64) {
            Ok(0) => {
                buffer.truncate(at);
                break;
            }
            Ok(read) => {
                readable += read;
                at += read;
                // The rest of the next chunk is likely to be readable.
                if at % CHUNK == 0 {
                    step = CHUNK;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_unreadable(&error) && step > BLOCK => step = BLOCK,
            Err(error) if is_unreadable(&error) => {
                // The content of the buffer is undefined after a failed read.
                part.fill(0);
                match unreadable.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => unreadable.push(at..end),
                }
                at = end;
                if at % CHUNK == 0 {
                    step = CHUNK;
                }
                if at == len && readable == 0 {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
    }

    /// A device whose reads end before a bad block and fail at it, as on Linux.
    fn device(content: &[u8], bad: &[usize]) -> impl FnMut(&mut [u8], u64) -> io::Result<usize> {
        move |part, at| {
            let at = at as usize;
            let end = (at + part.len()).min(content.len());
            let stop = bad.iter().map(|block| block * BLOCK).find(|start| start + BLOCK > at && *start < end);
            let end = match stop {
                Some(start) if start <= at => return Err(eio()),
                Some(start) => start,
                None => end,
            };
            part[..end - at].copy_from_slice(&content[at..end]);
            Ok(end - at)
        }
    }

    #[test]
    fn all_blocks_but_the_bad_ones_are_read_and_the_bad_ones_are_returned() {
        let content: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8 + 1).collect();
        let blocks = content.len().div_ceil(BLOCK);
        for bad in [vec![], vec![0], vec![3, 4, 5], vec![15, 16], vec![0, 17, blocks - 1], (1..blocks).collect()] {
            let mut buffer = vec![9; 10];
            let found = read_skipping_errors(content.len(), &mut buffer, device(&content, &bad)).unwrap();
            let mut expected = content.clone();
            for block in &bad {
                let end = ((block + 1) * BLOCK).min(expected.len());
                expected[block * BLOCK..end].fill(0);
            }
            assert_eq!(buffer, expected, "{bad:?}");
            let bad_bytes: usize = found.iter().map(Range::len).sum();
            assert_eq!(bad_bytes, expected.iter().filter(|byte| **byte == 0).count(), "{bad:?}: {found:?}");
            assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start), "{found:?}");
        }
    }

    #[test]
    fn eio_for_every_block_and_any_other_error_are_errors() {
        let mut buffer = Vec::new();
        let away = read_skipping_errors(100_000, &mut buffer, |_, _| Err(eio()));
        assert!(away.is_err_and(|error| is_unreadable(&error)));
        let denied = read_skipping_errors(100, &mut buffer, |_, _| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(denied.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(read_skipping_errors(10, &mut buffer, |_, _| Ok(0)).unwrap().is_empty());
        assert!(buffer.is_empty());
    }
}
