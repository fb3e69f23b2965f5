//! `millpond spool export`.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::Place;
use crate::cli::output::OutputFile;
use crate::cli::text::plural;
use crate::cli::{CliError, tell};
use crate::segment::{Compression, SegmentId};
use crate::spool::SegmentContent;

pub(super) fn run(place: &Place, id: SegmentId, out: &Path, raw: bool) -> Result<(), CliError> {
    let is_stdout = out == Path::new("-");
    let (found, content) = place.read(id)?;
    let compression = found.file.compression;
    if raw && is_stdout && compression != Compression::None && io::stdout().is_terminal() {
        return Err(CliError::Usage("compressed bytes are not for a terminal: use --out FILE, or a pipe".to_owned()));
    }
    if is_stdout {
        let mut stdout = io::stdout().lock();
        write(&content, compression, raw, &mut stdout)?;
        stdout.flush()?;
    } else {
        let mut file = OutputFile::create(out)?;
        write(&content, compression, raw, file.writer())?;
        file.finish()?;
    }
    let salvage = &content.salvage;
    let written = format!("{}, {}", plural(salvage.jobs, "job"), plural(salvage.payloads, "payload"));
    if salvage.is_suspect() {
        let dead = plural(salvage.dead_jobs(), "job");
        let more = if salvage.possibly_lost.is_some() {
            ", and the end of the file, cannot be read"
        } else {
            " cannot be read"
        };
        tell(&format!("millpond: the segment is damaged: wrote {written}; {dead}{more}: see millpond spool show {id}"));
        return Err(CliError::Reported);
    }
    if !is_stdout {
        tell(&format!("wrote {written} to {}", out.display()));
    }
    Ok(())
}

/// Writes the readable frames, decompressed unless `raw` is set. Each frame is valid on its own, so they are decompressed one by one.
fn write(content: &SegmentContent, compression: Compression, raw: bool, out: &mut dyn Write) -> Result<(), CliError> {
    for frame in content.data() {
        match compression {
            _ if raw => out.write_all(frame)?,
            Compression::None => out.write_all(frame)?,
            Compression::Gzip => copy(MultiGzDecoder::new(frame), out)?,
            Compression::Zstd => match zstd::Decoder::with_buffer(frame) {
                Ok(decoder) => copy(decoder, out)?,
                Err(error) => return Err(undecodable(&error)),
            },
        }
    }
    Ok(())
}

/// Copies all of `from`, and tells errors of reading from those of writing.
fn copy(mut from: impl Read, out: &mut dyn Write) -> Result<(), CliError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => out.write_all(buffer.get(..read).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(undecodable(&error)),
        }
    }
}

/// The checksum of the frame is valid, so this is a defect of the writer.
fn undecodable(error: &io::Error) -> CliError {
    CliError::Failed(format!("a frame with a valid checksum cannot be decompressed: {error}; export it with --raw"))
}
