//! `millpond spool requeue`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;

use rustix::process::geteuid;

use super::Place;
use crate::cli::text::{count, plural, printable};
use crate::cli::{CliError, print, tell};
use crate::segment::SegmentId;
use crate::spool::{DeadFile, SegmentEntry};

/// What is readable of the files under `dead/`.
#[derive(Default)]
struct Plan {
    /// The names of the files to move.
    names: Vec<String>,
    jobs: u64,
    payloads: u64,
    bytes: u64,
    /// Files that will be moved although they are still damaged.
    damaged: u64,
    /// Files that stay, and why.
    left: Vec<(String, String)>,
}

pub(super) fn run(place: &Place, segments: &[SegmentId], yes: bool) -> Result<(), CliError> {
    let dead = place.spool.dead().map_err(|error| place.failed(&error))?;
    let chosen = choose(dead, segments)?;
    let plan = Plan::of(place, &chosen);
    print(plan.text())?;
    if plan.names.is_empty() {
        return Ok(());
    }
    check_owner(place)?;
    if !yes {
        confirm(plan.names.len())?;
    }
    let requeued = place.spool.requeue(&plan.names).map_err(|error| place.failed(&error))?;
    if !requeued.moved.is_empty() {
        print(format!(
            "Moved {} to {}. The next process that starts on this spool stores them, or a running one within seconds.\n",
            plural(requeued.moved.len() as u64, "file"),
            requeued.folder.display(),
        ))?;
    }
    for (name, reason) in &requeued.failed {
        tell(&format!("millpond: {} was not moved: {}", printable(name), printable(reason)));
    }
    if requeued.failed.is_empty() { Ok(()) } else { Err(CliError::Reported) }
}

/// The files of these segments, or all files.
fn choose(dead: Vec<DeadFile>, segments: &[SegmentId]) -> Result<Vec<DeadFile>, CliError> {
    if segments.is_empty() {
        return Ok(dead);
    }
    let is_of = |file: &DeadFile, id: &SegmentId| file.segment.as_ref().is_some_and(|segment| segment.id == *id);
    if let Some(missing) = segments.iter().find(|id| !dead.iter().any(|file| is_of(file, id))) {
        return Err(CliError::Usage(format!("dead/ holds no segment {missing}: millpond spool ls lists the files")));
    }
    Ok(dead.into_iter().filter(|file| segments.iter().any(|id| is_of(file, id))).collect())
}

impl Plan {
    fn of(place: &Place, files: &[DeadFile]) -> Self {
        let mut plan = Self::default();
        for DeadFile { name, bytes, segment } in files {
            match segment {
                None => plan.left.push((name.clone(), "this is not the name of a segment".to_owned())),
                Some(segment) => plan.add(place, segment, *bytes),
            }
        }
        plan
    }

    fn add(&mut self, place: &Place, segment: &SegmentEntry, bytes: u64) {
        let name = segment.name.clone();
        let salvage = match place.spool.read_dead(segment) {
            Ok(content) => content.salvage,
            Err(error) => return self.left.push((name, error.to_string())),
        };
        if salvage.jobs == 0 {
            return self.left.push((name, "no job in it is readable".to_owned()));
        }
        self.names.push(name);
        self.jobs += salvage.jobs;
        self.payloads += salvage.payloads;
        self.bytes += bytes;
        self.damaged += u64::from(salvage.is_suspect());
    }

    fn text(&self) -> String {
        let mut text = format!(
            "dead/: {} to requeue with {}, {}, {} bytes; {} of them still damaged.\n",
            plural(self.names.len() as u64, "file"),
            plural(self.jobs, "readable job"),
            plural(self.payloads, "payload"),
            count(self.bytes),
            count(self.damaged),
        );
        for (name, reason) in &self.left {
            text += &format!("  {} stays: {}\n", printable(name), printable(reason));
        }
        text
    }
}

/// The server must be able to read what is moved: the new folder belongs to the user of this process.
fn check_owner(place: &Place) -> Result<(), CliError> {
    let dead = place.spool.dead_path();
    let owner = std::fs::metadata(&dead).map_err(|error| place.failed(&error))?.uid();
    let user = geteuid().as_raw();
    if owner == user {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "run this command as the user of the server: {} belongs to user {owner}, and this is user {user}, whose folders the \
         server cannot read",
        dead.display()
    )))
}

/// Asks a person.
fn confirm(files: usize) -> Result<(), CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage("nothing was moved: use --yes to confirm where no terminal can ask".to_owned()));
    }
    let question = format!("Requeue {}? [y/N] ", plural(files as u64, "file"));
    io::stderr().lock().write_all(question.as_bytes())?;
    let mut response = String::new();
    io::stdin().lock().read_line(&mut response)?;
    let is_yes = matches!(response.trim(), "y" | "Y" | "yes");
    if is_yes { Ok(()) } else { Err(CliError::Failed("not confirmed: nothing was moved".to_owned())) }
}
