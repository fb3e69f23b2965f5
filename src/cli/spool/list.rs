//! `millpond spool ls`.

use std::time::SystemTime;

use serde::Serialize;

use super::Place;
use crate::cli::text::{Align, count, duration, plural, printable, printable_json, table};
use crate::cli::{CliError, print};
use crate::rfc3339;
use crate::spool::{DeadFile, FolderState, SegmentEntry, SpoolFolder};

#[derive(Serialize)]
struct Listing {
    spool: String,
    folders: Vec<FolderRow>,
    dead: Vec<DeadRow>,
}

#[derive(Serialize)]
struct FolderRow {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    segments: Vec<SegmentRow>,
}

#[derive(Serialize)]
pub(super) struct SegmentRow {
    segment: String,
    state: &'static str,
    /// None for a segment that is open: they are unknown until it is read.
    jobs: Option<u32>,
    payloads: Option<u32>,
    bytes: u64,
    opened_time: String,
    #[serde(skip)]
    age: String,
}

#[derive(Serialize)]
struct DeadRow {
    name: String,
    bytes: u64,
    /// None if the name is not that of a segment.
    segment: Option<SegmentRow>,
}

impl SegmentRow {
    pub(super) fn of(file: &SegmentEntry, now: SystemTime) -> Self {
        let (jobs, payloads) = file.committed.unzip();
        let opened = file.id.opened_at();
        Self {
            segment: file.id.to_string(),
            state: if file.committed.is_some() { "sealed" } else { "open" },
            jobs,
            payloads,
            bytes: file.bytes,
            opened_time: rfc3339::with_seconds(opened),
            age: duration(now.duration_since(opened).unwrap_or_default()),
        }
    }

    /// One line about the segment.
    pub(super) fn describe(&self) -> String {
        let Self { segment, state, opened_time, age, .. } = self;
        format!("{segment}, {state}, {} bytes, opened {opened_time} ({age} ago)", count(self.bytes))
    }

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<u32>| number.map_or("-".to_owned(), |number| count(number.into()));
        vec![
            format!("  {}", self.segment),
            self.state.to_owned(),
            number(self.jobs),
            number(self.payloads),
            count(self.bytes),
            self.age.clone(),
        ]
    }
}

impl FolderRow {
    fn of(folder: &SpoolFolder, now: SystemTime) -> Self {
        let (state, reason) = match &folder.state {
            FolderState::InUse => ("in_use", None),
            FolderState::Exited => ("exited", None),
            FolderState::OtherVersion => ("other_version", None),
            FolderState::Failing(reason) => ("failing", Some(printable(reason))),
        };
        let segments = folder.segments.iter().map(|file| SegmentRow::of(file, now)).collect();
        Self { name: folder.name.clone(), state, reason, segments }
    }

    fn heading(&self) -> String {
        let state = match self.state {
            "in_use" => "in use by a running process".to_owned(),
            "exited" => "of an exited process; the next process adopts it".to_owned(),
            "other_version" => "written by another version of millpond".to_owned(),
            _ => format!("cannot be adopted: {}", self.reason.as_deref().unwrap_or_default()),
        };
        format!("{}: {state}", self.name)
    }
}

pub(super) fn run(place: &Place, json: bool) -> Result<(), CliError> {
    let now = SystemTime::now();
    let folders = place.spool.folders().map_err(|error| place.failed(&error))?;
    let dead = place.spool.dead().map_err(|error| place.failed(&error))?;
    let listing = Listing {
        spool: printable(&place.root.display().to_string()),
        folders: folders.iter().map(|folder| FolderRow::of(folder, now)).collect(),
        dead: dead.iter().map(|file| dead_row(file, now)).collect(),
    };
    if json {
        let text = serde_json::to_string_pretty(&listing).map_err(|error| CliError::Failed(error.to_string()))?;
        return print(printable_json(&text) + "\n");
    }
    print(listing.text())
}

fn dead_row(file: &DeadFile, now: SystemTime) -> DeadRow {
    DeadRow {
        name: printable(&file.name),
        bytes: file.bytes,
        segment: file.segment.as_ref().map(|file| SegmentRow::of(file, now)),
    }
}

impl Listing {
    fn text(&self) -> String {
        const COLUMNS: [Align; 6] = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right, Align::Right];
        let head = || ["  SEGMENT", "STATE", "JOBS", "PAYLOADS", "BYTES", "AGE"].map(str::to_owned).to_vec();
        let mut lines = Vec::new();
        let mut add = |heading: String, rows: Vec<Vec<String>>| {
            lines.push(heading);
            if !rows.is_empty() {
                let rows: Vec<_> = std::iter::once(head()).chain(rows).collect();
                lines.extend(table(&COLUMNS, &rows));
            }
            lines.push(String::new());
        };
        for folder in &self.folders {
            add(folder.heading(), folder.segments.iter().map(SegmentRow::cells).collect());
        }
        if !self.dead.is_empty() {
            let row = |file: &DeadRow| match &file.segment {
                Some(segment) => segment.cells(),
                None => [format!("  {}", file.name), "-".into(), "-".into(), "-".into(), count(file.bytes), "-".into()]
                    .to_vec(),
            };
            let heading = "dead: damaged; what was readable is stored".to_owned();
            add(heading, self.dead.iter().map(row).collect());
        }
        let segments: Vec<_> = self.folders.iter().flat_map(|folder| &folder.segments).collect();
        let bytes = |bytes: u64| format!("{} bytes", count(bytes));
        lines.push(format!(
            "{}: {} with {}, {}; {} under dead/, {}",
            self.spool,
            plural(self.folders.len() as u64, "folder"),
            plural(segments.len() as u64, "segment"),
            bytes(segments.iter().map(|segment| segment.bytes).sum()),
            plural(self.dead.len() as u64, "file"),
            bytes(self.dead.iter().map(|file| file.bytes).sum()),
        ));
        lines.join("\n") + "\n"
    }
}
