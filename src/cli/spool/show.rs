//! `millpond spool show`.

use std::ops::Range;
use std::time::SystemTime;

use serde::Serialize;

use super::Place;
use super::list::SegmentRow;
use crate::cli::text::{Align, count, plural, printable_json, table};
use crate::cli::{CliError, print};
use crate::segment::SegmentId;
use crate::spool::{FoundSegment, SegmentContent};

#[derive(Serialize)]
struct Report {
    folder: String,
    file: String,
    #[serde(flatten)]
    segment: SegmentRow,
    readable_jobs: u64,
    readable_payloads: u64,
    dead_jobs: u64,
    dead_payloads: u64,
    /// The ranges of indexes of dead jobs: first and last.
    dead_ranges: Vec<[u32; 2]>,
    /// The index of the first job that is lost if it was acknowledged, which is unknown.
    possibly_lost_from: Option<u32>,
    is_header_damaged: bool,
    unreadable_bytes: usize,
    torn_bytes: usize,
    is_damaged: bool,
    frames: Vec<FrameRow>,
}

#[derive(Serialize)]
struct FrameRow {
    offset: usize,
    bytes: usize,
    first_job: u32,
    jobs: u32,
    payloads: u32,
}

impl Report {
    fn of(found: &FoundSegment, content: &SegmentContent) -> Self {
        let salvage = &content.salvage;
        let frames = content.frames.iter().map(|frame| FrameRow {
            offset: frame.offset,
            bytes: frame.data.len(),
            first_job: frame.counts.first_job,
            jobs: frame.counts.jobs,
            payloads: frame.counts.payloads,
        });
        Self {
            folder: found.folder.clone(),
            file: found.file.name.clone(),
            segment: SegmentRow::of(&found.file, SystemTime::now()),
            readable_jobs: salvage.jobs,
            readable_payloads: salvage.payloads,
            dead_jobs: salvage.dead_jobs(),
            dead_payloads: salvage.dead_payloads,
            dead_ranges: salvage.dead.iter().map(|Range { start, end }| [*start, end.saturating_sub(1)]).collect(),
            possibly_lost_from: salvage.possibly_lost.map(|lost| lost.first),
            is_header_damaged: salvage.is_header_damaged,
            unreadable_bytes: salvage.unreadable_bytes,
            torn_bytes: salvage.torn_bytes,
            is_damaged: salvage.is_suspect(),
            frames: frames.collect(),
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("segment   {}", self.segment.describe()),
            format!("folder    {}", self.folder),
            format!("file      {}", self.file),
            format!("readable  {}, {}", plural(self.readable_jobs, "job"), plural(self.readable_payloads, "payload")),
            format!("dead      {}, {}", plural(self.dead_jobs, "job"), plural(self.dead_payloads, "payload")),
        ];
        for [first, last] in &self.dead_ranges {
            lines.push(format!("          jobs {first} to {last} are damaged"));
        }
        if let Some(first) = self.possibly_lost_from {
            lines.push(format!(
                "          the end cannot be read: jobs from {first} on are lost if they were acknowledged"
            ));
        }
        if self.is_header_damaged {
            lines.push("          the header of the file is damaged".to_owned());
        }
        if self.unreadable_bytes > 0 {
            lines.push(format!("          the disk cannot read {} bytes", count(self.unreadable_bytes as u64)));
        }
        if self.torn_bytes > 0 {
            let bytes = count(self.torn_bytes as u64);
            lines.push(format!(
                "          {bytes} bytes at the end are an unfinished append, which was never acknowledged"
            ));
        }
        lines.push(String::new());
        let head = ["OFFSET", "BYTES", "FIRST JOB", "JOBS", "PAYLOADS"].map(str::to_owned).to_vec();
        let row = |frame: &FrameRow| {
            let numbers = [
                frame.offset as u64,
                frame.bytes as u64,
                frame.first_job.into(),
                frame.jobs.into(),
                frame.payloads.into(),
            ];
            numbers.map(count).to_vec()
        };
        let rows: Vec<_> = std::iter::once(head).chain(self.frames.iter().map(row)).collect();
        lines.extend(table(&[Align::Right; 5], &rows));
        lines.join("\n") + "\n"
    }
}

pub(super) fn run(place: &Place, id: SegmentId, json: bool) -> Result<(), CliError> {
    let (found, content) = place.read(id)?;
    let report = Report::of(&found, &content);
    if json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| CliError::Failed(error.to_string()))?;
        print(printable_json(&text) + "\n")?;
    } else {
        print(report.text())?;
    }
    if report.is_damaged { Err(CliError::Reported) } else { Ok(()) }
}
